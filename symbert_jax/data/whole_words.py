"""Chooses whole words or spans of whole words to predict; `masking` gives the random numbers.

Words are those of BERT with whole word masking: a token that starts a word, and those that continue it. A special token
ends a word and belongs to none. Spans are those of SpanBERT (Joshi et al., 2020): their length in words is geometric
with p = 0.2, at most 10, and no span crosses a special token.
"""

import numpy as np
from jaxtyping import Bool, Int, UInt64

_SPAN_LENGTHS = np.arange(1, 11)
_END_PROBABILITY = 0.2  # p of the geometric distribution
# The numbers below 2**16 that give a span of at most 1, 2, … words.
_weights = _END_PROBABILITY * (1 - _END_PROBABILITY) ** (_SPAN_LENGTHS - 1)
_THRESHOLDS = np.rint(2**16 * np.cumsum(_weights) / _weights.sum()).astype(np.uint64)

_INDEX_BITS = np.uint64(0xFFFF)  # the low bits of a priority are an index, so that no two priorities are equal


def find_words(is_special: Bool[np.ndarray, "B T"], continues_word: Bool[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
    """Returns the number of each token's word in its row, from 0; -1 for special tokens."""
    follows_special = np.concatenate([np.ones_like(is_special[:, :1]), is_special[:, :-1]], axis=1)
    starts = ~is_special & (~continues_word | follows_special)
    return np.where(is_special, -1, np.cumsum(starts, axis=1) - 1)


def find_spans(
    bits: UInt64[np.ndarray, "B T"], words: Int[np.ndarray, "B T"], is_special: Bool[np.ndarray, "B T"]
) -> Int[np.ndarray, "B T"]:
    """Cuts the words of each row into spans of random lengths; returns the number of each word's span, from 0.

    bits: random numbers, of which the low 16 bits are used.
    words: the number of each token's word, as `find_words` returns it.
    """
    row = np.arange(len(words))[:, None]
    starts = np.zeros(words.shape, bool)  # whether the word of this number starts a span
    ends = np.cumsum(1 + np.searchsorted(_THRESHOLDS, bits & _INDEX_BITS, side="right"), axis=1)
    at_row, at_word = np.nonzero(ends < words.shape[1])
    starts[at_row, ends[at_row, at_word]] = True
    at_row, at_token = np.nonzero(is_special[:, :-1] & ~is_special[:, 1:])
    starts[at_row, words[at_row, at_token + 1]] = True
    starts[row, 0] = True
    return np.cumsum(starts, axis=1) - 1


def choose_words(
    bits: UInt64[np.ndarray, "B T"],
    words: Int[np.ndarray, "B T"],
    spans: Int[np.ndarray, "B T"] | None,
    counts: Int[np.ndarray, " B"],
) -> Bool[np.ndarray, "B T"]:
    """Returns which tokens are predicted: whole words in a random order, until a row has `counts` tokens.

    A word that would exceed the count is skipped, as in BERT. So a row has fewer only if no word left is short enough.

    bits: random numbers, of which all but the low 16 bits are used.
    words: the number of each token's word, -1 for none.
    spans: the number of each word's span. Spans come in a random order, and the words of a span one after the other.
      None: the words come in a random order.
    """
    lengths = _count_tokens(words)
    priority = bits if spans is None else np.take_along_axis(bits, spans, axis=1)
    priority = priority & ~_INDEX_BITS | np.arange(words.shape[1], dtype=np.uint64)
    priority[lengths == 0] = np.iinfo(np.uint64).max  # sorted last
    order = priority.argsort(axis=1)
    is_chosen = np.empty(words.shape, bool)
    np.put_along_axis(is_chosen, order, _fill(np.take_along_axis(lengths, order, axis=1), counts), axis=1)
    return np.take_along_axis(is_chosen, words, axis=1) & (words >= 0)  # the last word stands in for word -1


def _count_tokens(words: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
    """Returns the number of tokens of each word of a row; 0 after the last word."""
    row, token = np.nonzero(words >= 0)
    flat = row * words.shape[1] + words[row, token]
    return np.bincount(flat, minlength=words.size).reshape(words.shape)


def _fill(lengths: Int[np.ndarray, "B W"], counts: Int[np.ndarray, " B"]) -> Bool[np.ndarray, "B W"]:
    """Takes items from left to right, and skips every item with which the sum of lengths would exceed the count."""
    is_taken = np.cumsum(lengths, axis=1) <= counts[:, None]
    left = counts - (lengths * is_taken).sum(axis=1)
    start = is_taken.sum(axis=1)  # the first item that has not been considered
    (rows,) = np.nonzero(left)
    while len(rows):
        fits = (lengths[rows] <= left[rows, None]) & (np.arange(lengths.shape[1]) >= start[rows, None])
        item = fits.argmax(axis=1)
        is_found = fits[np.arange(len(rows)), item] & (lengths[rows, item] > 0)  # items of length 0 come last
        rows, item = rows[is_found], item[is_found]
        is_taken[rows, item] = True
        left[rows] -= lengths[rows, item]
        start[rows] = item + 1
        rows = rows[left[rows] > 0]
    return is_taken
