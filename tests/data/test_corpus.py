"""`prepare` from documents to rows and back, its counts, its errors, and what a killed run leaves."""

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st

from symbert_jax.config import Config, Data, Model
from symbert_jax.data import corpus, rows, tokenizer
from symbert_jax.data.vocabulary import SPECIAL
from symbert_jax.errors import UserError
from symbert_jax.storage import sha256

VOCABULARY = [*SPECIAL, "a", "b", "c", "##a", "##b", "[", "]", "sep"]
CLS, SEP = 2, 3
LENGTH = 8


def configure(folder: Path, *files: list[str], fraction: float = 0.0, length: int = LENGTH) -> Config:
    """A config for a corpus in `folder`/corpus; each of `files` is the documents of one JSON lines source."""
    for number, texts in enumerate(files):
        lines = (json.dumps({"text": text}) + "\n" for text in texts)
        (folder / f"{number}.jsonl").write_text("".join(lines))
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCABULARY))
    data = Data(
        dir=str(folder / "corpus"),
        sources=tuple(f"jsonl:{folder}/{number}.jsonl" for number in range(len(files))),
        vocab=str(folder / "vocab.txt"),
        validation_fraction=fraction,
    )
    return Config(model=Model(length=length, vocab_size=len(VOCABULARY)), data=data)


def stream(folder: Path, split: str) -> list[int]:
    """The tokens of all rows without their frames, read as any user of TFDS would."""
    source = tfds.builder_from_directory(folder / "corpus").as_data_source(split)
    read = [source[i]["tokens"] for i in range(len(source))]
    assert all(row.dtype == np.uint16 and row.shape == (LENGTH,) for row in read)
    assert all((row[0], row[-1]) == (CLS, SEP) for row in read)
    return [int(token) for row in read for token in row[1:-1]]


def expected(folder: Path, texts: list[str]) -> list[int]:
    """What the stream of the distinct `texts` begins with."""
    encoder = tokenizer.load(folder / "vocab.txt", parse_special=False)
    ids = (encoder.encode(text, add_special_tokens=False).ids for text in dict.fromkeys(texts))
    return [token for own in ids if own for token in [*own, SEP]]


def many(count: int) -> list[str]:
    """Different documents of 10 tokens."""
    return [" ".join(f"{i:010b}".replace("0", "a").replace("1", "b")) for i in range(count)]


TEXTS = st.lists(
    st.text("abc [SEP]\n\x00é", max_size=40) | st.sampled_from(["[SEP]", "[CLS] a", "\x01", "abab" * 30]),
    max_size=20,
)


@settings(max_examples=40, deadline=None)
@given(texts=TEXTS, batch=st.integers(1, 200), piece=st.integers(1, 20))
def test_rows_give_every_document_back_in_order(texts: list[str], batch: int, piece: int) -> None:
    texts = [*texts, "a " * LENGTH]
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "_BATCH", batch)
        patch.setattr(corpus, "_PIECE", piece)
        folder = Path(name)
        corpus.prepare(configure(folder, texts))
        wanted, found = expected(folder, texts), stream(folder, "train")
        assert found == wanted[: len(found)]
        assert len(wanted) - len(found) < LENGTH - 2
        counts = rows.read_manifest(folder / "corpus")["splits"]["train"]
        assert counts["tail_tokens_dropped"] == len(wanted) - len(found)
        assert counts["documents"] == wanted.count(SEP)
        assert counts["tokens"] == len(wanted) - wanted.count(SEP)
        assert counts["rows"] * (LENGTH - 2) == len(found)


def documents(folder: Path, split: str) -> list[tuple[int, ...]]:
    tokens = stream(folder, split)
    ends = [i for i, token in enumerate(tokens) if token == SEP]
    return [tuple(tokens[start:end]) for start, end in zip([0, *(end + 1 for end in ends)], ends, strict=False)]


def test_validation_is_chosen_by_the_text_alone(tmp_path: Path) -> None:
    texts = many(400)
    splits = []
    for name, order in ("forth", texts), ("back", texts[::-1]):
        folder = tmp_path / name
        folder.mkdir()
        corpus.prepare(configure(folder, order, fraction=0.25))
        splits.append({split: documents(folder, split) for split in rows.SPLITS})
    forth, back = splits
    assert 60 < len(forth["validation"]) < 140
    assert not set(forth["validation"]) & set(forth["train"])
    lost = 400 - len(forth["validation"]) - len(forth["train"])
    assert lost <= 2  # the ends that fill no row
    assert len(set(forth["validation"]) ^ set(back["validation"])) <= 2


def test_the_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = configure(tmp_path, ["a b", "a b", "c"], ["c", "b " * 30, "\x01"])
    corpus.prepare(config)
    manifest = rows.read_manifest(tmp_path / "corpus")
    first, second = config.data.sources
    assert manifest["sources"] == [first, second]
    assert manifest["documents"] == {first: 2, second: 1}
    assert manifest["duplicates"] == {first: 1, second: 1}
    assert manifest["splits"]["train"] == {"documents": 3, "rows": 6, "tokens": 33, "tail_tokens_dropped": 0}
    assert manifest["splits"]["validation"]["rows"] == 0
    assert manifest["length"] == LENGTH
    assert manifest["vocab_sha256"] == sha256(tmp_path / "corpus" / rows.VOCAB)
    assert set(manifest["versions"]) == {"symbert_jax", "tokenizers", "tensorflow-datasets"}
    assert "6 rows of 8 tokens to train and 0 to validate from 3 documents, 2 duplicates" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.glob("corpus*")) == ["corpus"]
    names = ["corpus-train.array_record-00000", "dataset_info.json", "features.json", "manifest.json", "vocab.txt"]
    assert sorted(path.name for path in (tmp_path / "corpus").iterdir()) == names


def test_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_SHARD", 1000)
    texts = many(200)
    corpus.prepare(configure(tmp_path, texts))
    assert len(list(tmp_path.glob("corpus/*array_record*"))) > 5
    found = stream(tmp_path, "train")
    assert found == expected(tmp_path, texts)[: len(found)]


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The documents between being read and being written are the same few for a corpus ten times the size."""

    def held(count: int) -> int:
        """The most of `count` documents at one moment."""
        read, written, most = 0, 0, 0

        class Writer(rows.Writer):
            def add(self, tokens: np.ndarray) -> None:
                nonlocal written, most
                most = max(most, read - written)
                written += int(np.sum(tokens == SEP))
                super().add(tokens)

        def documents(_: str):
            nonlocal read
            for text in many(count):
                read += 1
                yield text

        folder = tmp_path / str(count)
        folder.mkdir()
        config = configure(folder, many(1))
        with monkeypatch.context() as patch:
            patch.setattr(corpus, "_BATCH", 200)
            patch.setattr(corpus.rows, "Writer", Writer)
            patch.setattr(corpus.sources, "documents", documents)
            corpus.prepare(config)
        assert (written, read) == (count, count)
        return most

    assert 0 < held(1000) == held(100) < 50


def test_a_trained_vocabulary(tmp_path: Path) -> None:
    config = configure(tmp_path, many(30))
    data = Data(dir=config.data.dir, sources=config.data.sources, vocab="train", validation_fraction=0.0)
    corpus.prepare(Config(model=Model(length=LENGTH, vocab_size=64), data=data))
    words = (tmp_path / "corpus" / rows.VOCAB).read_text().split()
    assert words[:5] == list(SPECIAL)
    assert "[UNK]" not in [words[token] for token in stream(tmp_path, "train")]


def test_progress_where_there_is_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(corpus, "_QUIET", 0)
    corpus.prepare(configure(tmp_path, many(30)))
    assert " documents/s, " in capsys.readouterr().err


def test_a_prepared_corpus_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = configure(tmp_path, many(30))
    corpus.prepare(config)
    before = (tmp_path / "corpus" / rows.MANIFEST).stat().st_mtime_ns
    capsys.readouterr()
    corpus.prepare(config)
    assert capsys.readouterr().out == f"{tmp_path}/corpus is already prepared\n"
    assert (tmp_path / "corpus" / rows.MANIFEST).stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "change, message",
    [
        ({"length": 16}, r"model.length: found 16 for .*corpus, .*, wanted 8; remove"),
        ({"fraction": 0.5}, r"data.validation_fraction: found 0.5 for .*, wanted 0.0"),
        ({"sources": ("python-docs",)}, r"data.sources: found \['python-docs'\] for .*, wanted \['jsonl:"),
        ({"vocab": "train"}, r"data.vocab: found train 13 for .*, wanted sha256 "),
    ],
)
def test_another_corpus_is_not_taken_for_this_one(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = configure(tmp_path, many(30))
    corpus.prepare(config)
    data = Data(
        dir=config.data.dir,
        sources=change.get("sources", config.data.sources),
        vocab=change.get("vocab", config.data.vocab),
        validation_fraction=change.get("fraction", 0.0),
    )
    model = Model(length=change.get("length", LENGTH), vocab_size=config.model.vocab_size)
    with pytest.raises(UserError, match=message):
        corpus.prepare(Config(model=model, data=data))


def test_a_folder_of_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"data.dir: found .*corpus, which is no corpus"):
        corpus.prepare(configure(tmp_path, many(30)))
    assert (tmp_path / "corpus" / "thesis.tex").exists()


@pytest.mark.parametrize(
    "texts, fraction, message",
    [
        ([], 0.0, r"data.sources: found no document in jsonl:"),
        (
            ["\x01"],
            0.0,
            r"data.sources: found 0 tokens of training text, wanted enough for a row of model.length=8",
        ),
        (["a b c"], 0.0, r"data.sources: found 3 tokens of training text, wanted enough"),
        (
            many(30),
            1e-9,
            r"data.validation_fraction: found 1e-09, which chose 0 of 30 documents, wanted enough",
        ),
    ],
)
def test_too_little_text(texts: list[str], fraction: float, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        corpus.prepare(configure(tmp_path, texts, fraction=fraction))
    assert not (tmp_path / "corpus").exists()


def test_a_bucket_is_read_but_not_written() -> None:
    with pytest.raises(UserError, match=r"data.dir: found gs://bucket/corpus, wanted a local folder; prepare into one"):
        corpus.prepare(Config(data=Data(dir="gs://bucket/corpus")))


def test_no_sources(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.sources: found none, wanted at least one"):
        corpus.prepare(configure(tmp_path))


def test_a_missing_source_fails_before_the_first_is_read(tmp_path: Path) -> None:
    config = configure(tmp_path, ["damaged"])
    (tmp_path / "0.jsonl").write_text("damaged")
    sources = (*config.data.sources, f"text:{tmp_path}/*.none")
    data = Data(dir=config.data.dir, sources=sources, vocab=config.data.vocab)
    with pytest.raises(UserError, match=r"data.sources: found no file .*\.none"):
        corpus.prepare(Config(model=config.model, data=data))


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    with pytest.raises(UserError, match=r"data.dir: found no finished corpus in .*; run `python -m symbert_jax prep"):
        rows.open_split(folder, "train", LENGTH)
    corpus.prepare(configure(tmp_path, many(30)))
    with pytest.raises(UserError, match=r"model.length: found 512, wanted 8, the length of the rows in .*corpus"):
        rows.open_split(folder, "train", 512)
    with pytest.raises(UserError, match=r"data.dir: found no validation rows in .*; raise data.validation_fraction"):
        rows.open_split(folder, "validation", LENGTH)
    assert len(rows.open_split(folder, "train", LENGTH)) == 30 * 11 // 6


KILLED = """
import os, signal, sys
from pathlib import Path
from symbert_jax.data import corpus, sources
sys.path.insert(0, sys.argv[2])
from test_corpus import configure, many

def documents(source):
    for number, text in enumerate(many(200)):
        if number == 150:
            os.kill(os.getpid(), signal.SIGKILL)
        yield text

config = configure(Path(sys.argv[1]), many(200))
corpus._BATCH = 100
sources.documents = documents
corpus.prepare(config)
"""


def test_a_killed_run_leaves_no_corpus_and_the_next_one_succeeds(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path, Path(__file__).parent], timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert list(tmp_path.glob("corpus.incomplete/*array_record*"))
    with pytest.raises(UserError, match="no finished corpus"):
        rows.open_split(tmp_path / "corpus", "train", LENGTH)
    corpus.prepare(configure(tmp_path, many(200)))
    found = stream(tmp_path, "train")
    assert found == expected(tmp_path, many(200))[: len(found)]
    assert not (tmp_path / "corpus.incomplete").exists()


APART = """
import sys
from pathlib import Path
from symbert_jax.data import rows
assert len(rows.open_split(Path(sys.argv[1]), "train", 8)[0]["tokens"]) == 8
assert "tokenizers" not in sys.modules, "reading rows needs no tokenizer"
from symbert_jax.data import corpus, sources
assert list(sources.documents(f"bookcorpus:{sys.argv[2]}")) == ["a book"]
assert not {"tensorflow", "torch"} & set(sys.modules)
"""


def test_no_tensorflow_and_no_tokenizers_in_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    corpus.prepare(configure(tmp_path, many(30)))
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "a.txt").write_text("a book")
    subprocess.run([sys.executable, "-c", APART, tmp_path / "corpus", tmp_path / "books"], check=True, timeout=60)
