"""A row file and its counts, from the tokens of its rows."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt

from symbert_jax.data import rows
from symbert_jax.data.manifest import File, describe
from symbert_jax.data.prepare.packing import cut_rows
from symbert_jax.data.tokenizer import TextTokenizer


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
    cut = cut_rows(tokens, row_format.length, row_format.cls, row_format.sep)
    rows.write_file(path, cut, row_format.header)
    maskable = (~np.isin(cut, np.array(row_format.special, cut.dtype))).sum(axis=1)
    padding = int((cut == row_format.pad).sum())
    return RowFile(describe(path), len(cut), int(maskable.max()), int(maskable.min()), padding)
