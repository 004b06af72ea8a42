"""A directory of books is converted once, with few documents in memory."""

import gzip
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from symbert_jax.data.sources import bookcorpus
from symbert_jax.errors import UserError
from tests.data.sources.conftest import TEXTS, read, write_json_lines


def test_bookcorpus_is_built_again_if_its_directory_changes(tmp_path: Path, data_dir: Path) -> None:
    books = tmp_path / "books"
    books.mkdir()
    (books / "a.txt").write_text(TEXTS[0])
    write_json_lines(books / "b.jsonl.gz", TEXTS[1])
    (books / "notes.md").write_text("no book")
    assert read(f"bookcorpus:{books}") == TEXTS[:2]
    (built,) = data_dir.glob("bookcorpus/*/*/bookcorpus-train.array_record*")
    before = built.stat().st_mtime_ns
    assert read(f"bookcorpus:{books}") == TEXTS[:2]
    assert built.stat().st_mtime_ns == before
    (books / "c.txt.gz").write_bytes(gzip.compress(TEXTS[2].encode()))
    assert read(f"bookcorpus:{books}") == TEXTS
    assert len(list(data_dir.glob("bookcorpus/*"))) == 2


def test_building_a_dataset_holds_few_documents_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of 1,000 characters holds fewer than 100 of the 1,000 documents."""
    read_so_far = written = most = 0

    class Writer(tfds.core.SequentialWriter):
        def add_examples(self, examples: dict[str, list[dict[str, str]]]) -> None:
            nonlocal written, most
            most = max(most, read_so_far - written)
            written += len(examples["train"])
            super().add_examples(examples)

    def documents(_: Path):
        nonlocal read_so_far
        for number in range(1000):
            read_so_far += 1
            yield f"document {number}"

    monkeypatch.setattr(tfds.core, "SequentialWriter", Writer)
    monkeypatch.setattr(bookcorpus.plain_text, "read", documents)
    monkeypatch.setattr(bookcorpus, "_BATCH", 1000)
    (tmp_path / "a.txt").write_text("a book")
    assert read(f"bookcorpus:{tmp_path}") == [f"document {number}" for number in range(1000)]
    assert written == 1000 and 0 < most < 100


def test_damaged_book_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"data.sources: found .*a.txt, line 1: byte 0 is not UTF-8"):
        read(f"bookcorpus:{tmp_path}")
