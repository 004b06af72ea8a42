"""Texts out of a prepared TFDS dataset, TFRecord or ArrayRecord, local or in a bucket, without TensorFlow."""

import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from etils import epath
from google.protobuf.message import DecodeError

from symbert_jax.errors import UserError

_BATCH = 64  # records of an ArrayRecord file in memory


def data_dir() -> epath.Path:
    """Where prepared datasets are kept: the folder that TFDS itself uses."""
    return epath.Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


def find(name: str, field: str = "data.sources") -> epath.Path:
    """The folder of a prepared dataset, its newest version where `name` leaves that open.

    name: `wikipedia/20230601.en[:VERSION]`, looked up in `data_dir()`, or a path or bucket URL.
    field: of the config that named it, for errors.

    Raises:
      UserError: nothing is prepared there.
    """
    a_path = name.startswith(("/", ".", "~")) or "://" in name
    folder = epath.Path(name).expanduser() if a_path else data_dir() / name.replace(":", "/")
    try:
        if _is_dataset(folder):
            return folder
        versions = [path for path in folder.iterdir() if tfds.core.Version.is_valid(path.name) and _is_dataset(path)]
    except ImportError as error:
        raise UserError(field, f"{folder}: {error}", "the library for this bucket") from error
    except OSError:  # no such folder
        versions = []
    if not versions:
        raise UserError(
            field,
            f"no prepared dataset in {folder}",
            "a folder with dataset_info.json",
            "prepare it with TFDS, or set TFDS_DATA_DIR, or name its folder: tfds:DIRECTORY",
        )
    return max(versions, key=lambda path: tfds.core.Version(path.name))


def documents(folder: epath.Path) -> Iterator[str]:
    """The field `text` of the examples of split `train`, in stored order.

    Raises:
      UserError: there is no such split or field, or a file is missing, truncated or damaged (names it).
    """
    info = tfds.builder_from_directory(folder).info
    if "train" not in info.splits:
        raise UserError("data.sources", f"splits {sorted(info.splits)} in {folder}", "a split train")
    if "text" not in info.features or not isinstance(info.features["text"], tfds.features.Text):
        raise UserError("data.sources", f"fields {sorted(info.features)} in {folder}", "a text field named text")
    match info.file_format:
        case tfds.core.FileFormat.TFRECORD:
            read = _tf_records
        case tfds.core.FileFormat.ARRAY_RECORD:
            read = _array_records
        case other:
            raise UserError("data.sources", f"{other.value} files in {folder}", "tfrecord or array_record")
    only_text = tfds.features.FeaturesDict({"text": info.features["text"]})
    split = info.splits["train"]
    for path, length in zip(split.filepaths, split.shard_lengths, strict=True):
        count = 0
        try:
            for record in read(path):
                count += 1
                yield only_text.deserialize_example_np(record)["text"].decode()
        except (OSError, ValueError, DecodeError) as error:  # ValueError: what we and UTF-8 complain with
            raise UserError("data.sources", f"{path}, record {count}: {error}", "an intact file") from error
        if count != length:
            raise UserError("data.sources", f"{count} records in {path}", f"the {length} that its dataset counts")


def _array_records(path: epath.Path) -> Iterator[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        local = os.fspath(path)
        if "://" in local:  # the reader knows local files only
            local = os.path.join(folder, path.name)
            with path.open("rb") as remote, Path(local).open("wb") as copy:
                shutil.copyfileobj(remote, copy)
        reader = ArrayRecordReader(local)
        count = reader.num_records()
        for start in range(0, count, _BATCH):
            yield from reader.read(start, min(start + _BATCH, count))
        reader.close()


def _tf_records(path: epath.Path) -> Iterator[bytes]:
    """TFRecord framing: length (8 bytes), its checksum (4), that many bytes, their checksum (4)."""
    with path.open("rb") as file:
        while header := file.read(12):
            if len(header) < 12 or struct.unpack("<I", header[8:]) != (_masked_crc32c(header[:8]),):
                raise ValueError("no record begins there")
            (length,) = struct.unpack("<Q", header[:8])
            record = file.read(length)
            if len(record) < length or len(file.read(4)) < 4:
                raise ValueError("the file ends within a record")
            yield record


def _masked_crc32c(content: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _is_dataset(folder: epath.Path) -> bool:
    return (folder / "dataset_info.json").exists()
