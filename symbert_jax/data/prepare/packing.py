"""Cuts the token ids of all documents into rows, and the rows into files.

The documents of a split, in the order of their keys, form one sequence: document, [SEP], document, [SEP], … Every T - 2
tokens of it become a row [CLS] … [SEP]; a shorter rest at its end is dropped. The sequence is stored in parts of any
length, such as buckets. Neither rows nor files depend on where a part ends.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt


class Slice(NamedTuple):
    """The tokens from `start` to `end` of a part of a sequence."""

    bucket: int  # the number of the part
    start: int
    end: int


def find_slices(token_counts: Sequence[int], start: int, end: int) -> list[Slice]:
    """Returns the slices whose tokens, joined, are those from `start` to `end` of a sequence.

    token_counts: the number of tokens in each part of the sequence.
    """
    ends = np.cumsum(token_counts)
    first, last = np.searchsorted(ends, (start, end - 1), side="right").tolist()  # the parts of both ends
    slices = []
    for part in range(first, last + 1):
        begin = int(ends[part]) - token_counts[part]  # of the part, in the sequence
        if token_counts[part]:
            slices.append(Slice(part, max(start - begin, 0), min(end - begin, token_counts[part])))
    return slices


def plan_files(token_counts: Sequence[int], length: int, rows_per_file: int) -> list[list[Slice]]:
    """Returns, for each file of a split, the slices whose tokens, joined, are its rows.

    token_counts: the number of tokens in each part of the sequence.
    length: T, the tokens of a row.
    """
    inner = length - 2
    file_tokens, total = rows_per_file * inner, sum(token_counts) // inner * inner
    return [find_slices(token_counts, start, min(start + file_tokens, total)) for start in range(0, total, file_tokens)]


def split_slices(slices: Sequence[Slice], size: int) -> Iterator[list[Slice]]:
    """Yields slices of `size` tokens, the last ones maybe of fewer, which together are the tokens of `slices`."""
    token_counts = [end - start for _, start, end in slices]
    total = sum(token_counts)
    for begin in range(0, total, size):
        found = find_slices(token_counts, begin, min(begin + size, total))
        yield [Slice(slices[i].bucket, slices[i].start + start, slices[i].start + end) for i, start, end in found]


def cut_rows(tokens: UInt[np.ndarray, " n"], length: int, cls: int, sep: int) -> UInt[np.ndarray, "rows {length}"]:
    """Returns the rows of `tokens`, whose number is a multiple of T - 2.

    length: T, the tokens of a row.
    cls, sep: the ids of [CLS] and [SEP].
    """
    inner = tokens.reshape(-1, length - 2)
    rows = np.empty((len(inner), length), tokens.dtype)
    rows[:, 0], rows[:, -1], rows[:, 1:-1] = cls, sep, inner
    return rows
