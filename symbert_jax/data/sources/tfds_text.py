"""Reads texts from a prepared TFDS dataset without TensorFlow: TFRecord or ArrayRecord, on a disk or in a bucket."""

import gzip
import itertools
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from etils import epath
from google.protobuf.message import DecodeError

from symbert_jax.data.sources.file_shards import SHARD_BYTES, Shard
from symbert_jax.errors import UserError
from symbert_jax.storage import absolute, bucket_errors_as_user_errors, is_bucket

_MAX_RECORD = 1 << 30  # bytes; a longer record is taken for damage
_BATCH = 64  # records of an ArrayRecord file that are read at a time
# The exceptions of readers and decoders for damaged files. `documents` converts others, as for an outage of a bucket.
_DAMAGE = (OSError, ValueError, EOFError, zlib.error, RuntimeError, LookupError, AttributeError, DecodeError)


def data_dir() -> epath.Path:
    """Returns the folder of prepared datasets: TFDS_DATA_DIR or the default of TFDS."""
    return absolute(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets", "TFDS_DATA_DIR")


def find(name: str, field: str = "data.sources") -> epath.Path:
    """Returns the folder of a prepared dataset; if `name` gives no version, that of the newest version.

    name: `wikipedia/20230601.en[:VERSION]`, looked up in `data_dir()` and then as a path; or a path that begins
      with /, . or ~; or a bucket URL.
    field: the config field that names the dataset, for errors.

    Raises:
      UserError: there is no prepared dataset.
    """
    folders = [absolute(name, field)]
    if not name.startswith(("/", ".", "~")) and not is_bucket(name):
        folders.insert(0, data_dir() / name.replace(":", "/"))
    for folder in folders:
        with bucket_errors_as_user_errors(field, folder, "a bucket that can be read"):
            if is_dataset(folder):
                return folder
            if versions := _versions(folder):
                return max(versions, key=lambda path: tfds.core.Version(path.name))
    raise UserError(
        field,
        f"no prepared dataset in {folders[0]}",
        "a folder with dataset_info.json",
        "prepare it with TFDS, or set TFDS_DATA_DIR, or name its folder: tfds:DIRECTORY",
    )


def shards(source: str, folder: epath.Path) -> list[Shard]:
    """Returns the parts of split `train` of a dataset: a file, or a range of the records of a large ArrayRecord file.

    Raises:
      UserError: there is no such split, or no field `text`.
    """
    with bucket_errors_as_user_errors("data.sources", folder, "a bucket that can be read"):
        dataset = _open(folder)
        # Only local ArrayRecord files are divided: TFRecord has no index, and a file in a bucket is copied as a whole.
        is_divisible = dataset.read is _read_array_records and not is_bucket(folder)
        found = list[Shard]()
        for name, length in dataset.lengths.items():
            path = epath.Path(name)
            size = path.stat().length if path.exists() else 0  # reading a file that is missing raises an error
            count = max(1, min(length, -(-size // SHARD_BYTES))) if is_divisible else 1
            ends = [length * number // count for number in range(count + 1)]
            found += [Shard(source, (name,), start, end, size // count) for start, end in itertools.pairwise(ends)]
        return found


def read(shard: Shard) -> Iterator[str]:
    """Yields the field `text` of the examples of a shard, in stored order.

    Raises:
      UserError: a file is missing, truncated or damaged; the error names the file.
    """
    (name,), start, end = shard.paths, shard.start, shard.end
    path = epath.Path(name)
    with bucket_errors_as_user_errors("data.sources", path, "a bucket that can be read"):
        dataset = _open(path.parent)
        count = start
        try:
            for record in dataset.read(path, start, end):
                yield dataset.features.deserialize_example_np(record)["text"].decode()
                count += 1
        except _DAMAGE as error:
            raise UserError("data.sources", f"{path}, record {count}: {error}", "an intact file") from error
        if count != end:
            raise UserError("data.sources", f"{count} records in {path}", f"{end}, as its dataset says")


def is_dataset(folder: epath.Path) -> bool:
    """Whether a folder holds a prepared dataset."""
    return (folder / "dataset_info.json").exists()


def _versions(folder: epath.Path) -> list[epath.Path]:
    """Returns the subfolders with a dataset that are named as a version, such as 1.0.0."""
    try:
        return [path for path in folder.iterdir() if tfds.core.Version.is_valid(path.name) and is_dataset(path)]
    except (FileNotFoundError, NotADirectoryError):
        return []


# Yields the records of a file from one index to another.
_Reader = Callable[[epath.Path, int, int | None], Iterator[bytes]]


class _Dataset(NamedTuple):
    lengths: dict[str, int]  # the number of records in each file of split `train`, by path
    features: tfds.features.FeaturesDict  # the text alone
    read: _Reader


def _open(folder: epath.Path) -> _Dataset:
    try:
        info = tfds.builder_from_directory(folder).info
        files = {
            name: dict(zip(map(os.fspath, split.filepaths), split.shard_lengths, strict=True))
            for name, split in info.splits.items()
        }
    except Exception as error:  # TFDS can raise an exception of any type for a damaged description
        found = f"{folder}: {type(error).__name__}: {error}"
        raise UserError("data.sources", found, "the intact description of a TFDS dataset") from error
    if "train" not in files:
        raise UserError("data.sources", f"splits {sorted(files)} in {folder}", "a split train")
    fields = dict(info.features or {})
    if not isinstance(fields.get("text"), tfds.features.Text):
        raise UserError("data.sources", f"fields {sorted(fields)} in {folder}", "a text field named text")
    reader: _Reader
    match info.file_format:
        case tfds.core.FileFormat.TFRECORD:
            reader = _read_tf_records
        case tfds.core.FileFormat.ARRAY_RECORD:
            reader = _read_array_records
        case other:
            raise UserError("data.sources", f"{other.value} files in {folder}", "tfrecord or array_record")
    return _Dataset(files["train"], tfds.features.FeaturesDict({"text": fields["text"]}), reader)


def _read_array_records(path: epath.Path, start: int, end: int | None) -> Iterator[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        local = os.fspath(path)
        if is_bucket(local):  # the reader opens only local files
            local = os.path.join(folder, path.name)
            with path.open("rb") as remote, Path(local).open("wb") as copy:
                shutil.copyfileobj(remote, copy)
        reader = ArrayRecordReader(local)
        count = reader.num_records()
        end = count if end is None else min(end, count)
        for first in range(start, end, _BATCH):
            yield from reader.read(first, min(first + _BATCH, end))
        reader.close()


def _read_tf_records(path: epath.Path, start: int, end: int | None) -> Iterator[bytes]:
    """Yields all records of a TFRecord file, plain or gzip, whatever `start` and `end` are.

    The frame of a record is its length (8 bytes), the checksum of the length (4), the record, and its checksum (4).
    """
    with path.open("rb") as file:
        header = file.read(12)
        file.seek(0)
        # In a plain file, the length of the first record may begin like gzip, but then the checksum of the length is
        # right.
        if header.startswith(b"\x1f\x8b") and header[8:] != _checksum(header[:8]):
            with gzip.open(file) as unpacked:
                yield from _unframe(unpacked.read)
        else:
            yield from _unframe(file.read)


def _unframe(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """Yields the records of a decompressed TFRecord file; raises ValueError at the first damaged one."""
    while header := read(12):
        if len(header) < 12 or header[8:] != _checksum(header[:8]):
            raise ValueError("the file is not TFRecord at this position")
        (length,) = struct.unpack("<Q", header[:8])
        if length > _MAX_RECORD:
            raise ValueError(f"a record of {length:,} bytes")
        record, checksum = read(length), read(4)
        if len(record) < length or len(checksum) < 4:
            raise ValueError("the file ends within a record")
        if checksum != _checksum(record):
            raise ValueError("the record has a wrong checksum")
        yield record


def _checksum(content: bytes) -> bytes:
    """Returns the CRC32C as TFRecord stores it: rotated by 15 bits, plus a constant."""
    crc = google_crc32c.value(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
