"""Reading a damaged corpus raises one error that names the file, and never returns wrong rows."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from symbert_jax import storage
from symbert_jax.data.corpus import Corpus
from symbert_jax.data.manifest import MANIFEST, SPLITS, check_files
from symbert_jax.data.stream import open_stream
from symbert_jax.data.vocabulary import VOCAB
from symbert_jax.errors import UserError
from tests.conftest import TINY, write_corpus


@pytest.fixture
def intact(tmp_path: Path) -> Path:
    """An intact corpus of 64 training and 16 validation rows, which the test damages."""
    return write_corpus(tmp_path / "intact")


def read(folder: Path) -> list[Any]:
    """Returns the vocabulary and all rows of a corpus."""
    corpus = Corpus(str(folder))
    splits = [corpus.split(name) for name in SPLITS]
    rows = [split.__getitems__(range(len(split))) for split in splits]
    return [corpus.tokenizer.tokens, *([row["tokens"].tobytes() for row in each] for each in rows)]


def damage(content: bytes, rng: random.Random) -> bytes:
    """Cuts `content` at a random length, appends a byte or flips a bit, mostly of a byte that is not 0."""
    kind = rng.randrange(10)  # 0 and 1 cut, 2 appends, 3 to 8 flip a bit of a byte that is not 0, 9 of any byte
    if kind < 2:
        return content[: rng.randrange(len(content))]
    if kind == 2:
        return content + b"\0"
    offsets = [offset for offset, byte in enumerate(content) if byte] if kind < 9 else range(len(content))
    changed = bytearray(content)
    changed[rng.choice(offsets)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def test_random_damage_is_noticed_and_names_the_file(intact: Path) -> None:
    rng, whole, unnoticed = random.Random(0), read(intact), 0
    files = sorted(intact.iterdir())
    contents = [file.read_bytes() for file in files]
    assert len(files) == 6
    for _ in range(200):
        file, content = rng.choice(list(zip(files, contents, strict=True)))
        file.write_bytes(damage(content, rng))
        try:
            found = read(intact)
        except UserError as error:  # any other exception would reach the user as a traceback
            assert str(error).startswith("data.dir: found ") and file.name in str(error)
        else:
            assert found == whole
            unnoticed += 1  # the damage is in bytes that training does not read
        try:
            check_files(intact, read_rows=True)
        except UserError as error:
            assert file.name in str(error)
        else:  # no checksum covers the white space in the manifest and the name of the entry with its checksum
            assert file.name == MANIFEST and found == whole
        file.write_bytes(content)
    assert unnoticed < 20 and read(intact) == whole


def test_missing_file_is_named(intact: Path) -> None:
    for file in sorted(intact.iterdir()):
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(UserError, match=rf"data.dir: found .*({file.name}: No such file|no finished corpus)"):
            read(intact)
        file.write_bytes(content)


def test_damaged_row_is_an_error_of_the_batch(intact: Path) -> None:
    file, corpus = intact / "corpus-train.array_record-00000", Corpus(str(intact))
    content = bytearray(file.read_bytes())
    stream = open_stream(TINY, corpus, local_row_indices=np.arange(TINY.data.batch_size))
    row = corpus.split("train")[40]["tokens"].tobytes()
    content[content.index(row) + 9] ^= 2  # a bit of one of its tokens
    with file.open("r+b") as opened:
        opened.write(content)
    with pytest.raises(UserError, match=rf"data.dir: found {file}, row 40: Corrupted .*, wanted a readable row"):
        list(stream.batches(start=0, stop=4, threads=2))  # 4 batches are one epoch


def age_manifest(folder: Path, **changes: Any) -> None:
    """Rewrites the manifest as one of an older version, without checksums and with `changes`; None removes a key."""
    content = json.loads((folder / MANIFEST).read_text()) | {"files": None, "sha256": None} | changes
    content = {name: value for name, value in content.items() if value is not None}
    (folder / MANIFEST).write_text(json.dumps(content))


def test_older_corpus_is_checked_without_a_full_manifest(intact: Path) -> None:
    whole = read(intact)
    age_manifest(intact)
    assert read(intact) == whole
    age_manifest(intact, vocab_sha256=storage.sha256(intact / VOCAB))
    assert read(intact) == whole
    (intact / VOCAB).write_text((intact / VOCAB).read_text().replace("w7\n", "word\n"))
    with pytest.raises(UserError, match=r"data.dir: found .*vocab.txt, changed, wanted the checksum in manifest.json"):
        read(intact)
    (intact / VOCAB).write_text((intact / VOCAB).read_text().replace("word\n", "w7\n"))
    age_manifest(intact, splits={"train": {"rows": 63}, "validation": {"rows": 16}})
    with pytest.raises(UserError, match=r"data.dir: found 64 train rows in .*, wanted 63, as manifest.json says"):
        read(intact)
    age_manifest(intact)
    for name in ("features.json", "dataset_info.json"):
        content = (intact / name).read_text()
        for other in ("", "[]", "{}", content[:-9]):
            (intact / name).write_text(other)
            with pytest.raises(UserError, match=f"^data.dir: found {intact}"):
                read(intact)
        (intact / name).write_text(content)


COUNTS = {"train": {"rows": 64}, "validation": {"rows": 16}}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff{}",
        b"[" * 100_000,
        *(
            {"length": 16, "splits": COUNTS} | change
            for change in (
                {"length": "sixteen"},
                {"length": None},
                {"length": 1e999},
                {"splits": []},
                {"splits": {"train": {"rows": 64}}},
                {"splits": COUNTS | {"train": 64}},
                {"splits": COUNTS | {"train": {"rows": [64]}}},
                {"splits": COUNTS | {"train": {"rows": 64, "unk_share": {}}}},
                {"files": []},
                {"files": {"vocab.txt": 5}},
                {"files": {"vocab.txt": {"bytes": 5}}},
                {"sha256": 5},
            )
        ),
    ],
)
def test_manifest_of_another_form_is_one_error(content: bytes | dict, intact: Path) -> None:
    (intact / MANIFEST).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(UserError, match=r"^data.dir: found .*manifest.json"):
        read(intact)
