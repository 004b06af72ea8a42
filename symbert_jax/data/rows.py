"""The rows of a corpus on disk: a TFDS dataset of ArrayRecord files, written once, read by random access.

TFDS is imported where it is used: it takes a second, and the processes that write row files do not need it.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from jaxtyping import Int, UInt

from symbert_jax.errors import UserError
from symbert_jax.storage import add_path_to_os_errors

DATASET = "corpus"  # the name of the dataset, with which the names of its row files begin
DAMAGE_HINT = "remove the folder of the corpus, then prepare or copy it again"

_FILE_BYTES = 1 << 26  # the size of the tokens in a row file
_FORMAT = "array_record"


@runtime_checkable
class Rows(Protocol):
    """Random access to tokenised rows; each is a mapping whose `tokens` is uint16[T] or uint32[T]."""

    def __len__(self) -> int: ...
    def __getitems__(self, indices: Sequence[int]) -> Sequence[dict[str, Any]]: ...


def read_tokens(rows: Rows, indices: Int[np.ndarray, " B"]) -> UInt[np.ndarray, "B T"]:
    """Returns the tokens of the rows at these indices."""
    return np.stack([row["tokens"] for row in rows.__getitems__(indices.tolist())])


class Split:
    """Random access to the rows of one split: element i is `{"tokens": uint16[T]}`, [CLS] first and [SEP] last.

    The tokens are uint32 if the vocabulary is large: see `row_dtype`.
    """

    def __init__(self, folder: Path, name: str):
        """Opens a split; if the description of the dataset is damaged, can raise an exception of any type."""
        import tensorflow_datasets as tfds

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


def row_dtype(vocab_size: int) -> np.dtype:
    """Returns the type of the token ids in rows: uint16 if the vocabulary has at most 65,536 tokens, else uint32."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def rows_per_file(length: int, dtype: np.dtype) -> int:
    """Returns the number of rows of `length` tokens in each file but the last one of a split."""
    return max(1, _FILE_BYTES // (length * dtype.itemsize))


def file_name(split: str, number: int) -> str:
    return f"{DATASET}-{split}.{_FORMAT}-{number:05d}"


def record_header(length: int, dtype: np.dtype) -> bytes:
    """Returns the bytes that TFDS puts before the tokens of a row in its record.

    All rows have the same size, so it is the same for all. TFDS's serializer, called for every row, would take a fifth
    of the tokenizer's time.
    """
    empty = np.zeros(length, dtype)
    return _features(length, dtype).serialize_example({"tokens": empty}).removesuffix(empty.tobytes())


def write_file(path: Path, parts: Iterable[UInt[np.ndarray, "n T"]], header: bytes) -> None:
    """Writes a row file, whole or not at all.

    parts: the rows, in order.
    header: as `record_header` returns it.

    Raises:
      UserError: the file cannot be written.
    """
    new = path.with_name(f"{path.name}.new")
    try:
        # Groups of one row suit random access. Compression would save nothing on a single row, and make writing take
        # five times as long.
        writer = ArrayRecordWriter(os.fspath(new), "group_size:1,uncompressed")
        for rows in parts:
            for row in rows:
                writer.write(header + row.tobytes())
        writer.close()
    except RuntimeError as error:  # its message names the file
        hint = "make room and prepare again"
        raise UserError("data.dir", str(error), "a disk that can be written, with room", hint) from None
    new.replace(path)


def write_info(folder: Path, length: int, dtype: np.dtype, rows: Mapping[str, Sequence[int]]) -> None:
    """Writes the description that makes the files in `folder` a dataset for `tfds.builder_from_directory`.

    rows: for each split that has any, the number of rows in each of its files.
    """
    import tensorflow_datasets as tfds

    record_bytes = len(record_header(length, dtype)) + length * dtype.itemsize
    splits = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=list(counts),
            num_bytes=sum(counts) * record_bytes,
            filename_template=tfds.core.ShardedFileTemplate(
                data_dir=folder,
                dataset_name=DATASET,
                split=split,
                filetype_suffix=_FORMAT,
                template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}",  # without the number of files
            ),
        )
        for split, counts in rows.items()
    ]
    identity = tfds.core.DatasetIdentity(
        name=DATASET, version=tfds.core.Version("1.0.0"), data_dir=os.fspath(folder), module_name=__name__
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        description="Rows of WordPiece tokens: [CLS], a cut of the documents joined with [SEP], [SEP].",
        features=_features(length, dtype),
    )
    info.set_file_format(tfds.core.FileFormat.ARRAY_RECORD)
    info.set_splits(tfds.core.SplitDict(splits))
    with add_path_to_os_errors(folder):
        info.write_to_directory(folder)


def _features(length: int, dtype: np.dtype) -> Any:
    import tensorflow_datasets as tfds

    tokens = tfds.features.Tensor(shape=(length,), dtype=dtype.type, encoding=tfds.features.Encoding.BYTES)
    return tfds.features.FeaturesDict({"tokens": tokens})
