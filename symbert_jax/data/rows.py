"""The rows of a corpus on disk: a TFDS dataset of ArrayRecord files, written once, read by random access."""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath

from symbert_jax.data.vocabulary import VOCAB as VOCAB
from symbert_jax.errors import UserError
from symbert_jax.storage import bucket_errors_as_user_errors, is_bucket

SPLITS = ("train", "validation")
MANIFEST = "manifest.json"  # written last: without it there is no corpus

_DATASET = "corpus"
_SHARD = 1 << 26  # bytes of a file, about
_FORMAT = tfds.core.FileFormat.ARRAY_RECORD
_PREPARE = "run `python -m symbert_jax prepare` with this config"


def find(folder: str) -> Path:
    """The corpus in `folder` on a local disk, where random access is cheap: one in a bucket is copied, once.

    Raises:
      UserError: there is no finished corpus in the bucket.
    """
    if not is_bucket(folder):
        return Path(folder)
    source = epath.Path(folder)
    with bucket_errors_as_user_errors("data.dir", folder, "a bucket that can be read"):
        if not (source / MANIFEST).exists():
            raise UserError("data.dir", f"no finished corpus in {folder}", f"a folder with {MANIFEST}", _PREPARE)
        manifest = (source / MANIFEST).read_text()  # tells one corpus from a later one of the same name
    name = hashlib.sha256(f"{folder}\n{manifest}".encode()).hexdigest()[:16]
    copy = Path("~/.cache/symbert_jax/corpora").expanduser() / name
    if not is_finished(copy):
        with bucket_errors_as_user_errors("data.dir", folder, f"a bucket that can be read, and room in {copy.parent}"):
            _copy(source, copy)
    return copy


def _copy(source: epath.Path, copy: Path) -> None:
    """Whole or not at all. Of the processes of a host the first copies, and the others wait for it."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    with (copy.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # closing the file gives it back, and so does a kill
        if is_finished(copy):
            return
        for killed in copy.parent.glob("*.*"):
            shutil.rmtree(killed)
        print(f"copying {source} to {copy}", flush=True)
        new = Path(tempfile.mkdtemp(prefix=f"{copy.name}.", dir=copy.parent))
        for file in filter(epath.Path.is_file, source.iterdir()):
            file.copy(new / file.name)
        new.rename(copy)


def is_finished(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `prepare` noted about the corpus in `folder`: where it came from, counts, vocabulary, versions.

    Raises:
      UserError: there is no finished corpus in `folder`.
    """
    if not is_finished(folder):
        raise UserError("data.dir", f"no finished corpus in {folder}", f"a folder with {MANIFEST}", _PREPARE)
    return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))


def open_split(folder: Path, split: str, length: int) -> Any:
    """A random access data source; element i is `{"tokens": uint16[T]}`, [CLS] first and [SEP] last.

    split: train or validation. length: the T that the model wants.

    Raises:
      UserError: there is no finished corpus in `folder`, its rows have another length, or the split is empty.
    """
    manifest = read_manifest(folder)
    if manifest["length"] != length:
        wanted = f"{manifest['length']}, the length of the rows in {folder}"
        raise UserError("model.length", str(length), wanted, f"or name another data.dir and {_PREPARE}")
    if not manifest["splits"][split]["rows"]:
        hint = f"raise data.validation_fraction, name another data.dir and {_PREPARE}"
        raise UserError("data.dir", f"no {split} rows in {folder}", "at least one", hint)
    return tfds.builder_from_directory(folder).as_data_source(split)


class Writer:
    """Cuts one split's stream of tokens into rows uint16[T] and writes them to files of bounded size."""

    def __init__(self, folder: Path, split: str, length: int, cls: int, sep: int):
        self.shards: list[int] = []  # rows of each file
        self._length, self._frame = length, (cls, sep)
        self._tail = np.empty(0, np.uint16)  # tokens that do not fill a row yet
        self._file: ArrayRecordWriter | None = None
        self._template = tfds.core.ShardedFileTemplate(
            data_dir=folder,
            dataset_name=_DATASET,
            split=split,
            filetype_suffix=_FORMAT.file_suffix,
            template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}",  # their number is not known yet
        )
        # All rows are of one size, so TFDS frames them with the same bytes. Asking its serializer for every
        # row would cost a fifth of the tokenizer's time.
        empty = np.zeros(length, np.uint16)
        self._head = _features(length).serialize_example({"tokens": empty}).removesuffix(empty.tobytes())

    @property
    def rows(self) -> int:
        return sum(self.shards)

    def add(self, tokens: np.ndarray) -> None:
        """Appends tokens, uint16[any], to the stream."""
        stream, inner = np.concatenate([self._tail, tokens]), self._length - 2
        count = len(stream) // inner
        rows = np.empty((count, self._length), np.uint16)
        rows[:, 0], rows[:, -1] = self._frame
        rows[:, 1:-1] = stream[: count * inner].reshape(count, inner)
        self._tail = stream[count * inner :]
        for row in rows:
            self._write(self._head + row.tobytes())

    def close(self) -> int:
        """Finishes the last file; returns how many tokens did not fill a row and are dropped."""
        if self._file:
            self._file.close()
        return len(self._tail)

    def info(self) -> tfds.core.SplitInfo:
        return tfds.core.SplitInfo(
            name=self._template.split,
            shard_lengths=self.shards,
            num_bytes=self.rows * (len(self._head) + 2 * self._length),
            filename_template=self._template,
        )

    def _write(self, record: bytes) -> None:
        if not self._file or self.shards[-1] * len(record) >= _SHARD:
            self.close()
            path = self._template.sharded_filepath(shard_index=len(self.shards), num_shards=None)
            # Compression would save nothing on a single row and cost five times the writing.
            self._file = ArrayRecordWriter(os.fspath(path), "group_size:1,uncompressed")
            self.shards.append(0)
        self._file.write(record)
        self.shards[-1] += 1


def write_info(folder: Path, length: int, splits: Iterable[tfds.core.SplitInfo]) -> None:
    """Writes what makes the files in `folder` a dataset for `tfds.builder_from_directory`."""
    identity = tfds.core.DatasetIdentity(
        name=_DATASET, version=tfds.core.Version("1.0.0"), data_dir=os.fspath(folder), module_name=__name__
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        description="Rows of WordPiece tokens: [CLS], a cut of the documents joined with [SEP], [SEP].",
        features=_features(length),
    )
    info.set_file_format(_FORMAT)
    info.set_splits(tfds.core.SplitDict(splits))
    info.write_to_directory(folder)


def _features(length: int) -> tfds.features.FeaturesDict:
    tokens = tfds.features.Tensor(shape=(length,), dtype=np.uint16, encoding=tfds.features.Encoding.BYTES)
    return tfds.features.FeaturesDict({"tokens": tokens})
