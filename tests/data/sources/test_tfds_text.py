"""Prepared datasets of TFRecord and ArrayRecord files are found and read; each damage is one error."""

import gzip
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from fsspec import AbstractFileSystem

from symbert_jax.errors import UserError
from tests.data.sources.conftest import TEXTS, read, write_json_lines, write_tf_records


def test_tf_records_are_found_by_path_and_by_name(data_dir: Path) -> None:
    write_tf_records(data_dir / "handmade" / "config" / "1.9.0", ["an old version"])
    write_tf_records(data_dir / "handmade" / "config" / "1.10.0", TEXTS)
    assert read(f"tfds:{data_dir}/handmade/config/1.10.0") == TEXTS
    assert read("tfds:handmade/config:1.10.0") == TEXTS
    assert read("tfds:handmade/config") == TEXTS  # the newest
    assert read("tfds:handmade/config:1.9.0") == ["an old version"]


def test_array_records_are_found_by_path(tmp_path: Path, data_dir: Path) -> None:
    many = [f"document {i}" for i in range(150)]
    write_json_lines(tmp_path / "books.jsonl", *many)
    read(f"bookcorpus:{tmp_path}")
    (folder,) = data_dir.glob("bookcorpus/*/*")
    assert read(f"tfds:{folder}") == many


def test_bucket_without_its_library_names_the_package() -> None:
    with pytest.raises(UserError, match=r"s3fs.*, wanted the packages for buckets"):
        read("tfds:s3://bucket/wikipedia")


def test_both_formats_are_read_from_a_bucket(tmp_path: Path, data_dir: Path, bucket: AbstractFileSystem) -> None:
    write_json_lines(tmp_path / "books.jsonl", *TEXTS)
    read(f"bookcorpus:{tmp_path}")
    (arrays,) = data_dir.glob("bookcorpus/*/*")
    write_tf_records(tmp_path / "records" / "1.0.0", TEXTS)
    for name, folder in (("arrays", arrays), ("records", tmp_path / "records" / "1.0.0")):
        for path in folder.iterdir():
            bucket.pipe_file(f"gs://bucket/{name}/1.0.0/{path.name}", path.read_bytes())
    assert read("tfds:gs://bucket/arrays/1.0.0") == TEXTS
    assert read("tfds:gs://bucket/records/1.0.0") == TEXTS
    assert read("tfds:gs://bucket/records") == TEXTS  # the newest version
    with pytest.raises(UserError, match="no prepared dataset in gs://bucket/nothing"):
        read("tfds:gs://bucket/nothing")


def cut_record(content: bytes) -> bytes:
    """Ends the file within its last record."""
    return content[:-10]


def cut_header(content: bytes) -> bytes:
    """Ends the file within the header of its second record. A header has 12 bytes, a checksum after a record 4."""
    (length,) = struct.unpack("<Q", content[:8])
    return content[: 12 + length + 4 + 7]


def flip_length(content: bytes) -> bytes:
    """Flips a bit in the length of the first record."""
    return bytes([content[0] ^ 1]) + content[1:]


@pytest.mark.parametrize(
    "damage, message",
    [
        (cut_record, r"record 2: the file ends within a record"),
        (cut_header, r"record 1: the file is not TFRecord at this position"),
        (flip_length, r"record 0: the file is not TFRecord at this position"),
    ],
)
def test_damaged_tf_record_is_named(damage: Callable[[bytes], bytes], message: str, data_dir: Path) -> None:
    path = write_tf_records(data_dir / "1.0.0", TEXTS)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=f"data.sources: found .*{path.name}, {message}.*, wanted an intact file"):
        read(f"tfds:{data_dir}")


def test_every_changed_byte_of_tf_records_is_noticed(data_dir: Path) -> None:
    path = write_tf_records(data_dir / "1.0.0", TEXTS)
    content = path.read_bytes()
    for i in range(len(content)):
        path.write_bytes(content[:i] + bytes([content[i] ^ 1 << i % 8]) + content[i + 1 :])
        with pytest.raises(UserError, match=f"data.sources: found .*{path.name}, record [0-2]: .*, wanted an intact"):
            read(f"tfds:{data_dir}")
    path.write_bytes(gzip.compress(content))
    assert read(f"tfds:{data_dir}") == TEXTS
    path.write_bytes(gzip.compress(content)[:-20])
    with pytest.raises(UserError, match=r"record 2: Compressed file ended before"):
        read(f"tfds:{data_dir}")


def test_damaged_array_record_or_description_is_named(tmp_path: Path, data_dir: Path) -> None:
    write_json_lines(tmp_path / "books.jsonl", *TEXTS)
    read(f"bookcorpus:{tmp_path}")
    (folder,) = data_dir.glob("bookcorpus/*/*")
    (path,) = folder.glob("*array_record*")
    content = path.read_bytes()
    start = next(i for i in range(200, len(content)) if content[i])
    for damaged in (content[: len(content) // 2], content[:start] + b"????" + content[start + 4 :], b"", b"?" * 99):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=f"data.sources: found .*{path.name}, record 0: .*, wanted an intact file"):
            read(f"tfds:{folder}")
    for name in ("features.json", "dataset_info.json"):
        before = (folder / name).read_bytes()
        for damaged in (b"", b"{", b"[]", b"{}", before[:-30], b"\xff"):
            (folder / name).write_bytes(damaged)
            with pytest.raises(UserError, match=f"data.sources: found .*{folder}"):
                read(f"tfds:{folder}")
        (folder / name).write_bytes(before)


def test_missing_record_file_or_split_is_named(data_dir: Path) -> None:
    path = write_tf_records(data_dir / "1.0.0", TEXTS, claimed=4)
    with pytest.raises(UserError, match=r"found 3 records in .*tfrecord.*, wanted 4, as its dataset says"):
        read(f"tfds:{data_dir}")
    path.unlink()
    with pytest.raises(UserError, match=r"No such file"):
        read(f"tfds:{data_dir}")
    shutil.rmtree(data_dir)
    write_tf_records(data_dir / "1.0.0", TEXTS, split="test")
    with pytest.raises(UserError, match=r"found splits \['test'\] in .*, wanted a split train"):
        read(f"tfds:{data_dir}")


def test_dataset_without_text_is_refused(data_dir: Path) -> None:
    write_tf_records(data_dir / "1.0.0", TEXTS)
    number = tfds.features.Scalar(np.int64)
    features = tfds.features.FeaturesDict({"label": number, "text": number})
    features.save_config(str(data_dir / "1.0.0"))
    with pytest.raises(UserError, match=r"found fields \['label', 'text'\] in .*, wanted a text field named text"):
        read(f"tfds:{data_dir}")
