"""A row file and its counts, from the tokens of its rows."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt

from symbert_jax.data import rows
from symbert_jax.data.manifest import File, describe
from symbert_jax.data.prepare.packing import cut_rows
from symbert_jax.data.tokenizer import TextTokenizer

_ROWS_AT_ONCE = 1 << 10  # rows that are cut and counted; a copy of all rows of a file would be the most of the memory


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


def write_row_file(path: Path, tokens: UInt[np.ndarray, " n"], row_format: RowFormat) -> RowFile:
    """Cuts `tokens`, whose number is a multiple of T - 2, into rows, and writes their file."""
    length, special = row_format.length, np.array(row_format.special, row_format.dtype)
    maskable, padding = list[np.ndarray](), 0  # the number of tokens in each row that are not special; of [PAD]

    def cut_and_count() -> Iterator[np.ndarray]:
        nonlocal padding
        for start in range(0, len(tokens), _ROWS_AT_ONCE * (length - 2)):
            part = tokens[start : start + _ROWS_AT_ONCE * (length - 2)]
            cut = cut_rows(part, length, row_format.cls, row_format.sep)
            maskable.append((~np.isin(cut, special)).sum(axis=1))
            padding += int((cut == row_format.pad).sum())
            yield cut

    rows.write_file(path, cut_and_count(), row_format.header)
    counts = np.concatenate(maskable)
    return RowFile(describe(path), len(counts), int(counts.max()), int(counts.min()), padding)
