"""A row file and its counts, from the tokens of its rows."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt

from symbert_jax.data import rows, tokenizer
from symbert_jax.data.manifest import File, describe
from symbert_jax.data.prepare.packing import cut_rows
from symbert_jax.data.tokenizer import Tokenizer
from symbert_jax.data.vocabulary import CLS, SEP


class RowFormat(NamedTuple):
    """What determines the bytes of a row file, apart from its tokens."""

    length: int  # T
    dtype: np.dtype
    cls: int  # the id of [CLS]
    sep: int  # the id of [SEP]
    special: tuple[int, ...]  # the ids of all special tokens, which are never predicted
    header: bytes  # of each record

    @property
    def rows_per_file(self) -> int:
        return rows.rows_per_file(self.length, self.dtype)


class RowFile(NamedTuple):
    """A row file and its counts."""

    file: File
    rows: int
    most_maskable: int  # the largest number of tokens in a row that are not special
    fewest_maskable: int


def row_format(encoder: Tokenizer, length: int) -> RowFormat:
    """Returns the format of rows of `length` tokens of this tokenizer."""
    dtype, ids = rows.row_dtype(encoder.get_vocab_size()), tokenizer.special_ids(encoder)
    return RowFormat(length, dtype, ids[CLS], ids[SEP], tuple(ids.values()), rows.record_header(length, dtype))


def write_row_file(path: Path, tokens: UInt[np.ndarray, " n"], row_format: RowFormat) -> RowFile:
    """Cuts `tokens`, whose number is a multiple of T - 2, into rows, and writes their file."""
    cut = cut_rows(tokens, row_format.length, row_format.cls, row_format.sep)
    rows.write_file(path, cut, row_format.header)
    maskable = (~np.isin(cut, np.array(row_format.special, cut.dtype))).sum(axis=1)
    return RowFile(describe(path), len(cut), int(maskable.max()), int(maskable.min()))
