"""The shards of a source have each document once, wherever they divide a file."""

import json
import pickle
from pathlib import Path

import pytest
from fsspec import AbstractFileSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from symbert_jax.data import sources
from symbert_jax.data.sources import decoding, file_shards, tfds_text
from symbert_jax.errors import UserError
from tests.data.sources.conftest import TEXTS, read, write_json_lines

SENTENCES = st.lists(st.sampled_from(["One.", "Zwei ümläute.", "中中.", ""]), min_size=1, max_size=60)


def read_shards(source: str) -> list[list[str]]:
    """Returns the documents of each shard of a source, read from a pickle of the shard."""
    return [list(sources.read(pickle.loads(pickle.dumps(shard)))) for shard in sources.shards(source)]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=SENTENCES, size=st.integers(1, 80), probe=st.integers(1, 9), end=st.sampled_from(["\n", "\r\n", "\n \t\n"])
)
def test_parts_of_a_file_have_each_document_once(
    lines: list[str], size: int, probe: int, end: str, tmp_path: Path
) -> None:
    """JSON lines are divided at line ends, and text in BERT's layout at blank lines."""
    lines = ["First.", "Second.", "", "Third.", "Fourth.", *lines]
    (tmp_path / "a.jsonl").write_text(end.join(json.dumps({"text": f"{i}\n{line}"}) for i, line in enumerate(lines)))
    (tmp_path / "a.txt").write_text(end[-2:].lstrip("\t").join(lines), newline="")
    for source in (f"jsonl:{tmp_path}/a.jsonl", f"text:{tmp_path}/a.txt"):
        whole = read(source)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(file_shards, "SHARD_BYTES", size)
            patch.setattr(decoding, "_PROBE", probe)
            parts = read_shards(source)
        assert [text for part in parts for text in part] == whole
        assert len(parts) >= len(whole) // 40 * 2 // size


def test_small_files_share_a_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_shards, "SHARD_BYTES", 100)
    for number in range(6):
        write_json_lines(tmp_path / f"{number}.jsonl", "a" * 15)  # 41 bytes
    write_json_lines(tmp_path / "9.jsonl", *"abcdefgh")
    assert [len(part) for part in read_shards(f"jsonl:{tmp_path}")] == [2, 2, 2, 4, 4, 0]


def test_only_plain_utf8_is_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_shards, "SHARD_BYTES", 20)
    (tmp_path / "array.jsonl").write_text(json.dumps([{"text": text} for text in TEXTS]))
    (tmp_path / "book.txt").write_text("a long line of prose\nand another one\n\na third")
    (tmp_path / "wide.jsonl").write_bytes("\n".join(json.dumps({"text": text}) for text in TEXTS).encode("utf-16"))
    write_json_lines(tmp_path / "small.jsonl.gz", *TEXTS)
    for name in ("jsonl:{}/array.jsonl", "text:{}/book.txt", "jsonl:{}/wide.jsonl", "jsonl:{}/small.jsonl.gz"):
        (only,) = read_shards(name.format(tmp_path))
        assert len(only) == (1 if "book" in name else 3)


def test_error_in_a_part_names_the_line_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_shards, "SHARD_BYTES", 50)
    monkeypatch.setattr(decoding, "CHUNK", 16)
    good, path = b'{"text": "a"}\n' * 10, tmp_path / "a.jsonl"
    for bad, message in ((b'{"text": 1}\n', 'line 11: "text" is 1'), (b'{"text": "\xff"}', "line 11: byte 150 is not")):
        path.write_bytes(good + bad)
        with pytest.raises(UserError, match=message):
            read(f"jsonl:{path}")


def test_records_of_a_dataset_are_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [f"document {i}" for i in range(150)]
    write_json_lines(tmp_path / "books.jsonl", *many)
    monkeypatch.setattr(tfds_text, "SHARD_BYTES", 1 << 12)
    parts = read_shards(f"bookcorpus:{tmp_path}")
    assert len(parts) > 2 and [text for part in parts for text in part] == many


def test_files_in_a_bucket_are_found_by_pattern_folder_or_name(
    bucket: AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, texts in (("a.jsonl", TEXTS[:1]), ("deep/b.jsonl.gz", TEXTS[1:])):
        file = tmp_path / Path(name).name
        write_json_lines(file, *texts)
        bucket.pipe_file(f"gs://bucket/my/{name}", file.read_bytes())
    bucket.pipe_file("gs://bucket/my/notes.md", b"no text")
    bucket.pipe_file("gs://bucket/books/a[1].txt", b"One.\nTwo.\n\nThree.\nFour.\n")
    assert read("jsonl:gs://bucket/my") == read("jsonl:gs://bucket/my/**/*.jsonl*") == TEXTS
    assert read("jsonl:gs://bucket/my/a.jsonl") == TEXTS[:1]
    with pytest.raises(UserError, match="found no file gs://bucket/my/c"):
        sources.shards("jsonl:gs://bucket/my/c*")
    with pytest.raises(UserError, match="found no such file below gs://bucket/my, wanted files named"):
        sources.shards("text:gs://bucket/my")
    monkeypatch.setattr(file_shards, "SHARD_BYTES", 10)
    assert read_shards("text:gs://bucket/books/a[1].txt") == [["One.\nTwo."], ["Three.\nFour."], []]
