"""A row file and its counts, from the tokens of its rows."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt

from symbert_jax.data import rows
from symbert_jax.data.manifest import File, describe
from symbert_jax.data.prepare.packing import cut_rows
from symbert_jax.data.tokenizer import TextTokenizer

_ROWS_AT_ONCE = 1 << 10  # that are read, cut and counted; all rows of a file would be the most of a worker's memory


class RowFormat(NamedTuple):
    """What determines the bytes of a row file, apart from its tokens."""

    length: int  # T
    dtype: np.dtype
    cls: int  # the id of [CLS]
    sep: int  # the id of [SEP]
    special: tuple[int, ...]  # the ids of all special tokens, which are never predicted
    header: bytes  # of each record
    pad: int  # the id of [PAD]

    @property
    def rows_per_file(self) -> int:
        return rows.rows_per_file(self.length, self.dtype)

    @property
    def tokens_at_once(self) -> int:
        """The number of tokens, a multiple of T - 2, that are cut into rows at a time."""
        return _ROWS_AT_ONCE * (self.length - 2)


class RowFile(NamedTuple):
    """A row file and its counts."""

    file: File
    rows: int
    most_maskable: int  # the largest number of tokens in a row that are not special
    fewest_maskable: int
    padding: int  # the number of [PAD]


def row_format(tokenizer: TextTokenizer, length: int) -> RowFormat:
    """Returns the format of rows of `length` tokens of this tokenizer."""
    dtype, special = rows.row_dtype(len(tokenizer.tokens)), tuple(np.flatnonzero(tokenizer.is_special).tolist())
    header = rows.record_header(length, dtype)
    return RowFormat(length, dtype, tokenizer.cls_id, tokenizer.sep_id, special, header, tokenizer.pad_id)


def write_row_file(path: Path, parts: Iterable[UInt[np.ndarray, " n"]], row_format: RowFormat) -> RowFile:
    """Cuts tokens into rows, and writes their file.

    parts: the tokens, of which memory holds one part at a time; the size of each is a multiple of T - 2.
    """
    special = np.array(row_format.special, row_format.dtype)
    counts = list[tuple[int, int, int, int]]()  # of each part, in the order of `RowFile`

    def cut_and_count() -> Iterator[np.ndarray]:
        for tokens in parts:
            cut = cut_rows(tokens, row_format.length, row_format.cls, row_format.sep)
            maskable = (~np.isin(cut, special)).sum(axis=1)
            counts.append((len(cut), int(maskable.max()), int(maskable.min()), int((cut == row_format.pad).sum())))
            yield cut

    rows.write_file(path, cut_and_count(), row_format.header)
    num_rows, most_maskable, fewest_maskable, padding = zip(*counts, strict=True)
    return RowFile(describe(path), sum(num_rows), max(most_maskable), min(fewest_maskable), sum(padding))
