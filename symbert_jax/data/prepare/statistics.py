"""Counts of a corpus, which are sums over its documents."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt

_PERCENT = (5, 25, 50, 75, 95)  # quantiles of the lengths of documents


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
    """Counts by split (the first axis: train, validation) of distinct documents that have a token.

    Token counts do not include [CLS] and [SEP].
    """

    documents: Int[np.ndarray, "2 sources"]  # by the alphabetically first source of the document
    duplicates: Int[np.ndarray, " sources"]  # further copies of documents, by their source
    tokens: Int[np.ndarray, "2 V"]  # occurrences of each token
    lengths: Int[np.ndarray, " n"]  # the lengths of documents in tokens that occur
    length_counts: Int[np.ndarray, "2 n"]  # the number of documents of each of these lengths


def count(
    sequences: Sequence[UInt[np.ndarray, " _"]],
    lengths: Sequence[Int[np.ndarray, " _"]],
    sources: Sequence[Int[np.ndarray, " _"]],
    duplicates: Int[np.ndarray, " sources"],
    vocab_size: int,
    sep: int,
) -> Statistics:
    """Returns the counts of some documents.

    sequences: for each split, the tokens of all its documents, each with its [SEP].
    lengths: for each split, the number of tokens in each document without its [SEP].
    sources: for each split, the number of the source of each document.
    vocab_size: V.
    sep: the id of [SEP].
    """
    tokens = np.stack([np.bincount(sequence, minlength=vocab_size) for sequence in sequences])
    tokens[:, sep] = 0  # no text has this token
    found = np.unique(np.concatenate(lengths))
    length_counts = np.zeros((len(lengths), len(found)), np.int64)
    for counts, lengths_of_split in zip(length_counts, lengths, strict=True):
        np.add.at(counts, np.searchsorted(found, lengths_of_split), 1)
    documents = np.stack([np.bincount(numbers, minlength=len(duplicates)) for numbers in sources])
    return Statistics(documents, duplicates, tokens, found, length_counts)


def add(parts: Iterable[Statistics]) -> Statistics:
    """Returns the counts of the documents of all parts."""
    return functools.reduce(_add, parts)


def _add(left: Statistics, right: Statistics) -> Statistics:
    lengths = np.union1d(left.lengths, right.lengths)
    length_counts = np.zeros((2, len(lengths)), np.int64)
    for part in (left, right):
        length_counts[:, np.searchsorted(lengths, part.lengths)] += part.length_counts
    return Statistics(
        left.documents + right.documents,
        left.duplicates + right.duplicates,
        left.tokens + right.tokens,
        lengths,
        length_counts,
    )


def length_quantiles(counts: Statistics) -> dict[str, int]:
    """Returns the quantiles of the lengths of documents in tokens, and the largest length, by name."""
    numbers = np.cumsum(counts.length_counts.sum(axis=0))
    lengths = counts.lengths[np.searchsorted(numbers, np.array(_PERCENT) * numbers[-1] / 100)].tolist()
    names = [*(f"{percent}%" for percent in _PERCENT), "longest"]
    return dict(zip(names, [*lengths, int(counts.lengths[-1])], strict=True))


def frequent_tokens(counts: Statistics, number: int) -> dict[int, int]:
    """Returns the ids of the most frequent tokens, and how often each occurs; of equal counts the lowest ids."""
    tokens = counts.tokens.sum(axis=0)
    return {int(i): int(tokens[i]) for i in np.argsort(-tokens, kind="stable")[:number] if tokens[i]}


def load(path: Path) -> Statistics:
    """Returns the counts whose arrays are in a file of `numpy.savez`."""
    with np.load(path) as arrays:
        return Statistics(**arrays)
