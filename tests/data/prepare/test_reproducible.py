"""A corpus is a function of its recipe: the same bytes for any order of sources and files, any workers, and kills."""

import dataclasses
import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from symbert_jax.config import Config, DataConfig, ModelConfig
from symbert_jax.data import rows
from symbert_jax.data.prepare import bucket_parts, buckets, local, runs
from symbert_jax.data.prepare.buckets import Bucket
from symbert_jax.data.prepare.command import prepare
from tests.command_line import ROOT

PREPARE = """
import sys
from symbert_jax.data import rows
from symbert_jax.data.prepare import local
from symbert_jax.data.prepare.command import prepare
from tests.data.prepare.test_reproducible import make_config, use_small_files

if __name__ == "__main__":
    use_small_files(setattr)
    prepare(make_config(sys.argv[1], workers=2, packing="best_fit"))
"""


def use_small_files(set_attribute) -> None:
    set_attribute(local, "_BUCKET_BYTES", 1 << 13)
    set_attribute(rows, "_FILE_BYTES", 1 << 12)


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_files(monkeypatch.setattr)


def random_texts(count: int) -> list[str]:
    """Returns texts of up to 80 words, in lines; some of them have no token."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefgh", k=rng.randint(1, 8))) for _ in range(500)]
    lengths = [rng.choice((0, 1, 5, 20, 80)) for _ in range(count)]
    return ["\n".join(["\x01", *rng.choices(words, k=length)]) for length in lengths]


def write_sources(folder: Path, texts: list[str], seed: int) -> None:
    """Writes the texts, some of them twice, to three sources of two files each, in an order that the seed decides.

    The first source has every third text, whatever the seed.
    """
    rng = random.Random(seed)
    for number in range(3):
        copies = texts[number::3] + texts[number::30] + texts[(number + 1) % 3 :: 60]
        rng.shuffle(copies)
        cut = rng.randrange(1, len(copies))
        (folder / f"{number}").mkdir(parents=True)
        for name, part in (("a", copies[:cut]), ("b", copies[cut:])):
            lines = (json.dumps({"text": text}) + "\n" for text in part)
            (folder / f"{number}" / f"{name}.jsonl").write_text("".join(lines))


def make_config(
    name: str, sources: tuple[str, ...] = ("0", "1", "2"), workers: int = 0, packing: str = "concat"
) -> Config:
    """Returns a config of the corpus `name` of the sources in the current folder, with a trained vocabulary."""
    data = DataConfig(
        dir=name,
        sources=tuple(f"jsonl:{source}" for source in sources),
        vocab="train",
        validation_fraction=0.1,
        workers=workers,
        packing=packing,
    )
    return Config(model=ModelConfig(length=16, vocab_size=200), data=data)


def digests(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of every file of a corpus, the manifest included."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """The digests of a corpus with each packing."""
    folder, found = tmp_path_factory.mktemp("expected"), {}
    write_sources(folder, random_texts(600), seed=0)
    with pytest.MonkeyPatch.context() as patch:
        use_small_files(patch.setattr)
        patch.chdir(folder)
        for packing in ("concat", "best_fit"):
            prepare(make_config(packing, packing=packing))
            found[packing] = digests(folder / packing)
            assert len([name for name in found[packing] if name.startswith("corpus-train")]) > 4
            assert "corpus-validation.array_record-00000" in found[packing]
    return found


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_corpus_depends_neither_on_order_nor_on_workers(workers, expected, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_sources(tmp_path, random_texts(600), seed=workers)
    monkeypatch.setattr(local, "_BUCKET_BYTES", 1 << (10 + workers))  # also the number of buckets is of no importance
    prepare(make_config("corpus", sources=("2", "0", "1"), workers=workers))
    assert digests(tmp_path / "corpus") == expected["concat"]
    changed = dataclasses.replace(make_config("corpus"), seed=1)
    prepare(changed)  # the order of the sources is not part of the recipe, so this corpus is already prepared


def test_large_bucket_is_read_in_parts(expected, tmp_path, monkeypatch) -> None:
    """Memory holds a small part of the text at a time, even if all documents are in one bucket."""
    monkeypatch.chdir(tmp_path)
    texts, sizes, tokenize = random_texts(600), [], buckets.tokenize
    write_sources(tmp_path, texts, seed=0)
    monkeypatch.setattr(local, "_MAX_BITS", 0)
    monkeypatch.setattr(bucket_parts, "_PART_BYTES", 1 << 13)

    def record_size(documents: Bucket, *rest: object) -> object:
        sizes.append(sum(map(len, documents.texts)))
        return tokenize(documents, *rest)

    monkeypatch.setattr(buckets, "tokenize", record_size)
    prepare(make_config("corpus"))
    assert digests(tmp_path / "corpus") == expected["concat"]
    assert max(sizes) <= 1 << 13 and sum(sizes) > 7 * max(sizes)


def test_bucket_without_documents_beside_a_large_one_is_empty(tmp_path, monkeypatch) -> None:
    """A single document, larger than a part, is in the third of four buckets."""
    monkeypatch.setattr(bucket_parts, "_PART_BYTES", 100)
    (tmp_path / "runs").mkdir()
    list(runs.write_runs([b"a" * 1000], 2, tmp_path / "runs" / "00000-000000"))
    parts = [list(bucket_parts.read_parts(tmp_path / "runs", 2, bucket, 1)) for bucket in range(4)]
    assert [sum(len(part.texts) for part in of_bucket) for of_bucket in parts] == [0, 0, 1, 0]
    assert all(part.duplicates.tolist() == [0] and part.keys.shape[1] == 2 for of_bucket in parts for part in of_bucket)


def test_killed_run_is_continued(expected, tmp_path, monkeypatch) -> None:
    """Kills runs at random moments until one ends by itself; then each file is the same as without a kill."""
    monkeypatch.chdir(tmp_path)
    write_sources(tmp_path, random_texts(600), seed=0)
    rng, kills, states = random.Random(0), 0, set()
    unfinished = tmp_path / "corpus.incomplete" / "unfinished"
    while not (tmp_path / "corpus").exists():
        with subprocess.Popen([sys.executable, "-c", PREPARE, "corpus"], env={"PYTHONPATH": str(ROOT)}) as process:
            seen = len(list(unfinished.glob("*/*")))
            while process.poll() is None and len(list(unfinished.glob("*/*"))) == seen and kills < 5:
                time.sleep(0.002)
            if process.poll() is None and kills < 5:
                time.sleep(rng.random() * 0.05)
                process.send_signal(signal.SIGKILL)
                kills += 1
        states |= {path.parent.name for path in unfinished.glob("*/*")}
    assert kills >= 2 and states
    assert digests(tmp_path / "corpus") == expected["best_fit"]
