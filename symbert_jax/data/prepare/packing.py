"""Cuts the token ids of all documents into rows, and the rows into files.

The documents of a split, in the order of their keys, form one sequence: document, [SEP], document, [SEP], … Every T - 2
tokens of it become a row [CLS] … [SEP]; a shorter rest at its end is dropped. The sequence is stored in buckets, which
are consecutive parts of any length. Neither rows nor files depend on where a bucket ends.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt


class Slice(NamedTuple):
    """The tokens from `start` to `end` of the sequence of a bucket."""

    bucket: int
    start: int
    end: int


def plan_files(token_counts: Sequence[int], length: int, rows_per_file: int) -> list[list[Slice]]:
    """Returns, for each file of a split, the slices whose tokens, joined, are its rows.

    token_counts: the number of tokens in each bucket.
    length: T, the tokens of a row.
    """
    inner = length - 2
    file_tokens, total = rows_per_file * inner, sum(token_counts) // inner * inner
    files: list[list[Slice]] = [[] for _ in range(0, total, file_tokens)]
    ends = itertools.accumulate(token_counts)
    for bucket, (count, end) in enumerate(zip(token_counts, ends, strict=True)):
        position, end, first = end - count, min(end, total), end - count  # in the sequence of the split
        while position < end:
            file = position // file_tokens
            stop = min(end, (file + 1) * file_tokens)
            files[file].append(Slice(bucket, position - first, stop - first))
            position = stop
    return files


def cut_rows(tokens: UInt[np.ndarray, " n"], length: int, cls: int, sep: int) -> UInt[np.ndarray, "rows {length}"]:
    """Returns the rows of `tokens`, whose number is a multiple of T - 2.

    length: T, the tokens of a row.
    cls, sep: the ids of [CLS] and [SEP].
    """
    inner = tokens.reshape(-1, length - 2)
    rows = np.empty((len(inner), length), tokens.dtype)
    rows[:, 0], rows[:, -1], rows[:, 1:-1] = cls, sep, inner
    return rows
