"""The rows of a corpus on disk: a TFDS dataset of ArrayRecord files, written once, read by random access."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from jaxtyping import Int, UInt16

from symbert_jax.errors import UserError
from symbert_jax.storage import add_path_to_os_errors

DATASET = "corpus"  # the name of the dataset, with which the names of its row files begin
DAMAGE_HINT = "remove the folder of the corpus, then prepare or copy it again"

_FILE_BYTES = 1 << 26  # the approximate size of a row file
_FORMAT = tfds.core.FileFormat.ARRAY_RECORD


@runtime_checkable
class Rows(Protocol):
    """Random access to tokenised rows; each is a mapping whose `tokens` is uint16[T]."""

    def __len__(self) -> int: ...
    def __getitems__(self, indices: Sequence[int]) -> Sequence[dict[str, Any]]: ...


def read_tokens(rows: Rows, indices: Int[np.ndarray, " B"]) -> UInt16[np.ndarray, "B T"]:
    """Returns the tokens of the rows at these indices."""
    return np.stack([row["tokens"] for row in rows.__getitems__(indices.tolist())])


class Split:
    """Random access to the rows of one split: element i is `{"tokens": uint16[T]}`, [CLS] first and [SEP] last."""

    def __init__(self, folder: Path, name: str):
        """Opens a split; if the description of the dataset is damaged, can raise an exception of any type."""
        builder = tfds.builder_from_directory(folder)
        self._source: Any = builder.as_data_source(name)
        info = builder.info.splits[name]
        self._files, self._ends = info.filepaths, np.cumsum(info.shard_lengths)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> Sequence[dict[str, Any]]:
        """Reads several rows.

        Raises:
          UserError: a row cannot be read; the error names its file and its index in the split.
        """
        try:
            rows: Sequence[dict[str, Any]] = self._source.__getitems__(indices)
            return rows
        except Exception as error:  # a damaged file raises an exception of any type, which does not name the file
            if len(indices) > 1:  # read the rows one by one, to find the damaged one
                return [self[index] for index in indices]
            file = self._files[np.searchsorted(self._ends, indices[0], "right")]
            hint = f"if the file is damaged, {DAMAGE_HINT}"
            raise UserError("data.dir", f"{file}, row {indices[0]}: {error}", "a readable row", hint) from error


class Writer:
    """Cuts the token stream of a split into rows uint16[T] and writes them to files of bounded size.

    Its methods raise `UserError` if a file cannot be written.
    """

    def __init__(self, folder: Path, split: str, length: int, cls: int, sep: int, unk: int):
        """length: T. cls, sep, unk: the ids of [CLS], [SEP] and [UNK]."""
        self.rows_per_file: list[int] = []
        self.most_maskable, self.fewest_maskable = 0, length  # the most and fewest tokens of a row that are not special
        self._unmaskable = np.array([unk, sep], np.uint16)
        self._length, self._frame = length, (cls, sep)
        self._remainder = np.empty(0, np.uint16)  # tokens that do not fill a row yet
        self._file: ArrayRecordWriter | None = None
        self._template = tfds.core.ShardedFileTemplate(
            data_dir=folder,
            dataset_name=DATASET,
            split=split,
            filetype_suffix=_FORMAT.file_suffix,
            template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}",  # no -of-N: N is not known until the end
        )
        # All rows have the same size, so TFDS puts the same bytes before the tokens of each. They are computed once:
        # TFDS's serializer, called for every row, would take a fifth of the tokenizer's time.
        empty = np.zeros(length, np.uint16)
        self._header = _features(length).serialize_example({"tokens": empty}).removesuffix(empty.tobytes())

    @property
    def row_count(self) -> int:
        """The number of rows so far."""
        return sum(self.rows_per_file)

    def add(self, tokens: UInt16[np.ndarray, " n"]) -> None:
        """Appends tokens to the stream."""
        stream, inner = np.concatenate([self._remainder, tokens]), self._length - 2
        count = len(stream) // inner
        rows = np.empty((count, self._length), np.uint16)
        rows[:, 0], rows[:, -1] = self._frame
        rows[:, 1:-1] = stream[: count * inner].reshape(count, inner)
        self._remainder = stream[count * inner :]
        maskable = (~np.isin(rows[:, 1:-1], self._unmaskable)).sum(axis=1)
        self.most_maskable = max(self.most_maskable, int(maskable.max(initial=0)))
        self.fewest_maskable = min(self.fewest_maskable, int(maskable.min(initial=self._length)))
        with self._writer_errors_as_user_errors():
            for row in rows:
                self._write(self._header + row.tobytes())

    def close(self) -> int:
        """Finishes the current file, if any; returns the number of tokens so far that do not fill a row."""
        if self._file:
            with self._writer_errors_as_user_errors():
                self._file.close()
        return len(self._remainder)

    def info(self) -> tfds.core.SplitInfo:
        """Returns the description of the split for `write_info`."""
        return tfds.core.SplitInfo(
            name=self._template.split,
            shard_lengths=self.rows_per_file,
            num_bytes=self.row_count * (len(self._header) + 2 * self._length),
            filename_template=self._template,
        )

    def _write(self, record: bytes) -> None:
        if not self._file or self.rows_per_file[-1] * len(record) >= _FILE_BYTES:
            self.close()
            path = self._template.sharded_filepath(shard_index=len(self.rows_per_file), num_shards=None)
            # Groups of one row suit random access. Compression would save nothing on a single row, and make writing
            # take five times as long.
            self._file = ArrayRecordWriter(os.fspath(path), "group_size:1,uncompressed")
            self.rows_per_file.append(0)
        self._file.write(record)
        self.rows_per_file[-1] += 1

    @contextlib.contextmanager
    def _writer_errors_as_user_errors(self) -> Iterator[None]:
        """Converts the exceptions of ArrayRecord's writer to `UserError`."""
        try:
            yield
        except RuntimeError as error:  # its message names the file
            hint = "make room or name another data.dir, and prepare again"
            raise UserError("data.dir", str(error), "a disk that can be written, with room", hint) from None


def write_info(folder: Path, length: int, splits: Iterable[tfds.core.SplitInfo]) -> None:
    """Writes the description that makes the files in `folder` a dataset for `tfds.builder_from_directory`."""
    identity = tfds.core.DatasetIdentity(
        name=DATASET, version=tfds.core.Version("1.0.0"), data_dir=os.fspath(folder), module_name=__name__
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        description="Rows of WordPiece tokens: [CLS], a cut of the documents joined with [SEP], [SEP].",
        features=_features(length),
    )
    info.set_file_format(_FORMAT)
    info.set_splits(tfds.core.SplitDict(splits))
    with add_path_to_os_errors(folder):
        info.write_to_directory(folder)


def _features(length: int) -> tfds.features.FeaturesDict:
    tokens = tfds.features.Tensor(shape=(length,), dtype=np.uint16, encoding=tfds.features.Encoding.BYTES)
    return tfds.features.FeaturesDict({"tokens": tokens})
