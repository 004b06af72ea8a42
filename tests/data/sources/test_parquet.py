"""Parquet files are read by row groups; each mistake is one error."""

from pathlib import Path

import pyarrow as pa
import pytest
from fsspec import AbstractFileSystem
from pyarrow.parquet import write_table

from symbert_jax.data import sources
from symbert_jax.data.sources import file_shards
from symbert_jax.errors import UserError
from tests.data.sources.conftest import TEXTS, read

MANY = [f"document {number}, ümläute" for number in range(1000)]


def test_row_groups_are_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: AbstractFileSystem) -> None:
    path = tmp_path / "b.parquet"
    write_table(pa.table({"id": range(1000), "text": MANY}), path, row_group_size=100)
    write_table(pa.table({"text": pa.array(TEXTS).dictionary_encode()}), tmp_path / "c.parquet")
    assert read(f"parquet:{tmp_path}") == MANY + TEXTS
    monkeypatch.setattr(file_shards, "SHARD_BYTES", 2000)
    bucket.pipe_file("gs://bucket/b.parquet", path.read_bytes())
    for location in (path, "gs://bucket/*.parquet"):
        parts = [list(sources.read(shard)) for shard in sources.shards(f"parquet:{location}")]
        assert 2 < len(parts) <= 10 and [text for part in parts for text in part] == MANY


@pytest.mark.parametrize(
    "table, message",
    [
        ({"content": ["a"], "id": [1]}, "found columns content, id in .*, wanted one column named text"),
        ({"text": [1]}, "found column text of type int64 in .*, wanted a column of strings"),
        ({"text": ["a", "b", None]}, 'a.parquet, row 2: "text" is null, wanted a text in every row'),
    ],
)
def test_table_without_texts_is_an_error(table: dict, message: str, tmp_path: Path) -> None:
    write_table(pa.table(table), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=f"^data.sources: .*{message}"):
        read(f"parquet:{tmp_path}/a.parquet")


def test_damaged_parquet_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_table(pa.table({"text": MANY}), path, compression="none", use_dictionary=False, write_page_checksum=True)
    content = path.read_bytes()
    middle = content.replace(b"document 7", b"document 8", 1)
    lfs = b"version https://git-lfs.github.com/spec/v1\n"
    for damaged in (content[: len(content) // 2], content[:-1], middle, b"", b"PAR1", lfs):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=f"^data.sources: found {path}[:,]"):
            read(f"parquet:{path}")
