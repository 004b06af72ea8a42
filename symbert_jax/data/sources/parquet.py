"""Documents of Parquet files: the column `text`."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from etils import epath

from symbert_jax.errors import UserError
from symbert_jax.storage import HEAD, LFS_POINTER, check_format

COLUMN = "text"

_BATCH = 1 << 8  # rows decoded at a time


def read(path: Path | epath.Path, start: int = 0, end: int | None = None) -> Iterator[str]:
    """Yields the texts of the row groups from `start` to `end` of a Parquet file, by default of all.

    Raises:
      UserError: the file is damaged or has no column of texts, or a text is missing; the error names the row.
    """
    try:
        with path.open("rb") as opened:
            file = _open(path, opened)
            groups = range(file.num_row_groups)[start:end]
            row = sum(file.metadata.row_group(group).num_rows for group in range(start))
            for batch in file.iter_batches(_BATCH, list(groups), [COLUMN]):
                for text in batch.column(0).to_pylist():
                    if text is None:
                        wanted = "a text in every row"
                        raise UserError("data.sources", f'{path}, row {row}: "{COLUMN}" is null', wanted)
                    yield text
                    row += 1
    except (OSError, ValueError, pyarrow.ArrowException) as error:  # ValueError: also text that is not UTF-8
        raise UserError("data.sources", f"{path}: {error}", "an intact Parquet file") from error


def divide(path: Path | epath.Path, size: int) -> list[tuple[int, int]]:
    """Returns ranges of row groups, each as short as possible with at least `size` bytes, the last maybe with fewer.

    Raises:
      UserError: the file is damaged or has no column of texts.
    """
    try:
        with path.open("rb") as opened:
            metadata = _open(path, opened).metadata
            sizes = [_compressed_size(metadata.row_group(group)) for group in range(metadata.num_row_groups)]
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise UserError("data.sources", f"{path}: {error}", "an intact Parquet file") from error
    ends, collected = [0], 0
    for end, group_size in enumerate(sizes, start=1):
        collected += group_size
        if collected >= size or end == len(sizes):
            ends.append(end)
            collected = 0
    return list(itertools.pairwise(ends))


def _open(path: Path | epath.Path, opened: Any) -> pyarrow.parquet.ParquetFile:
    """Opens a Parquet file; raises `UserError` if it has another format or no column of texts."""
    check_format(opened.read(HEAD), path, "data.sources", "a Parquet file", refused=(LFS_POINTER,))
    file = pyarrow.parquet.ParquetFile(opened, page_checksum_verification=True)
    schema = file.schema_arrow
    if schema.names.count(COLUMN) != 1:
        found = f"columns {', '.join(schema.names)} in {path}"
        raise UserError("data.sources", found, f"one column named {COLUMN}")
    kind = schema.field(COLUMN).type
    kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind) or pyarrow.types.is_string_view(kind)):
        raise UserError("data.sources", f"column {COLUMN} of type {kind} in {path}", "a column of strings")
    return file


def _compressed_size(group: Any) -> int:
    """Returns the bytes that the column `text` has in a row group."""
    columns = (group.column(number) for number in range(group.num_columns))
    return sum(column.total_compressed_size for column in columns if column.path_in_schema == COLUMN)
