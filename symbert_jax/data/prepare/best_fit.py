"""Packs whole documents into rows: the longest first, each into the fullest row that has room for it (best fit
decreasing).

A row is [CLS] document [SEP] document [SEP] … [PAD] … [SEP]. Its T - 1 tokens after [CLS] hold documents, each with its
[SEP], and padding; the [SEP] that closes it is that of its last document if this leaves no room. A document of more
than T - 2 tokens is cut: all but its last 1 to T - 2 tokens fill rows of their own, and these last ones are packed like
a document.

Documents are packed in windows, which bounds the memory. A window has the documents that start in a range of the
sequence of the split, so it depends on the documents alone.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import UInt

_WINDOW = 1 << 24  # tokens
_CHUNK = 1 << 16  # tokens read at a time beyond the end of a window


def count_windows(total: int) -> int:
    """Returns the number of windows of a sequence of `total` tokens."""
    return -(-total // _WINDOW)


def read_window(
    read: Callable[[int, int], UInt[np.ndarray, " _"]], number: int, total: int, sep: int
) -> UInt[np.ndarray, " _"]:
    """Returns the documents that start in a window, joined, each with its [SEP].

    read: returns the tokens from a start to an end of the sequence of a split, which has `total` tokens.
    sep: the id of [SEP].
    """
    start, end = number * _WINDOW, min((number + 1) * _WINDOW, total)
    tokens = read(max(start - 1, 0), end)
    if number:  # the first document that starts here follows the first [SEP] from start - 1 on
        ends = np.flatnonzero(tokens == sep)
        tokens = tokens[ends[0] + 1 :] if len(ends) else tokens[:0]
    parts = [tokens]
    while len(tokens) and parts[-1][-1] != sep:  # the last document goes on
        more = read(end, min(end + _CHUNK, total))
        end += len(more)
        ends = np.flatnonzero(more == sep)
        parts.append(more[: ends[0] + 1] if len(ends) else more)
    return np.concatenate(parts)


def pack(documents: UInt[np.ndarray, " n"], length: int, sep: int, pad: int) -> UInt[np.ndarray, " _"]:
    """Returns the tokens of rows between [CLS] and the [SEP] that closes them, joined; a multiple of T - 2.

    documents: joined, each with its [SEP].
    length: T, the tokens of a row.
    sep, pad: the ids of [SEP] and [PAD].
    """
    inner = length - 2
    ends = np.flatnonzero(documents == sep)
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)[: len(ends)]
    cut = (ends - starts - 1) // inner * inner  # tokens of each document that fill rows of their own
    full = [documents[start : start + count] for start, count in zip(starts, cut, strict=True) if count]
    starts += cut
    sizes = ends + 1 - starts
    rows, offsets = best_fit_decreasing(sizes.tolist(), capacity=length - 1)
    packed = np.full((max(rows, default=-1) + 1, length - 1), pad, documents.dtype)
    for row, offset, start, size in zip(rows, offsets, starts.tolist(), sizes.tolist(), strict=True):
        packed[row, offset : offset + size] = documents[start : start + size]
    return np.concatenate([*full, packed[:, :-1].ravel()])


def best_fit_decreasing(sizes: Sequence[int], capacity: int) -> tuple[list[int], list[int]]:
    """Returns the bin of each item, and the offset of the item in its bin. Equal items are packed in their order."""
    bins, offsets = [0] * len(sizes), [0] * len(sizes)
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]  # the bins that have this much room
    rooms, num_bins = 0, 0  # bit r of `rooms` says whether a bin has room r
    for item in np.argsort(-np.array(sizes, np.int64), kind="stable").tolist():
        size = sizes[item]
        if large_enough := rooms >> size << size:
            room = (large_enough & -large_enough).bit_length() - 1  # the lowest bit
            bin_ = by_room[room].pop()
            if not by_room[room]:
                rooms ^= 1 << room
        else:
            room, bin_, num_bins = capacity, num_bins, num_bins + 1
        bins[item], offsets[item] = bin_, capacity - room
        by_room[room - size].append(bin_)
        rooms |= 1 << (room - size)
    return bins, offsets
