"""Masks tokens as BERT does (Devlin et al., 2018), anew in every epoch (Liu et al., 2019).

The random numbers are counter-based: the masked tokens of a row and their replacements are a pure function of (seed,
row, epoch). There is no generator state to keep, so any process can mask any row at any time.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, UInt, UInt64

from symbert_jax.batch import MlmBatch
from symbert_jax.data.vocabulary import MASK, SPECIAL
from symbert_jax.errors import UserError

_GOLDEN = 0x9E3779B97F4A7C15  # the increment of SplitMix64: 2**64 divided by the golden ratio


def max_predictions(length: int, rate: float) -> int:
    """Returns M, the most predictions that a row of `length` tokens can need, rounded up to a multiple of 8."""
    return -(-math.ceil(rate * length) // 8) * 8


@dataclass(frozen=True, eq=False)
class Masking:
    """Masks rows of `length` tokens over `vocabulary`.

    Of the n tokens of a row that are not special, round(rate * n) are predicted. Each of these is replaced by [MASK]
    with probability 0.8, by a random token that is not special with probability 0.1, and kept otherwise.
    """

    vocabulary: Sequence[str]  # the tokens, by id
    length: int  # T
    rate: float
    seed: int

    @property
    def max_predictions(self) -> int:
        return max_predictions(self.length, self.rate)

    @functools.cached_property
    def _is_special(self) -> Bool[np.ndarray, " V"]:
        return np.array([token in SPECIAL for token in self.vocabulary])

    def __call__(
        self, tokens: UInt[np.ndarray, "B T"], row_indices: Int[np.ndarray, " B"], epochs: Int[np.ndarray, " B"]
    ) -> MlmBatch:
        """Returns the batch of `tokens` with masks.

        row_indices: for each row of `tokens`, its index in the split.
        epochs: the epoch of each row. The seed, the index and the epoch of a row determine its masks.

        Raises:
          UserError: a token is not in the vocabulary.
        """
        if (largest := int(tokens.max(initial=0))) >= len(self.vocabulary):
            wanted = f"tokens below {len(self.vocabulary)}, the size of the vocabulary"
            raise UserError("data.dir", f"token {largest} in a row", wanted, "the corpus is damaged: prepare it again")
        # One key, and so one stream of random numbers, for each (seed, row, epoch).
        seed, indices = np.array([self.seed], np.uint64), row_indices.astype(np.uint64)
        keys = _mix(_mix(_mix(seed) + indices) + epochs.astype(np.uint64))
        positions, is_used = self._choose_positions(keys, self._is_special[tokens])
        targets = np.take_along_axis(tokens, positions, axis=1).astype(np.int32)
        masked = tokens.astype(np.int32)
        row, slot = np.nonzero(is_used)
        masked[row, positions[row, slot]] = self._choose_replacements(keys, targets)[row, slot]
        return MlmBatch(masked, positions, np.where(is_used, targets, 0), is_used.astype(np.float32))

    def _choose_positions(
        self, keys: UInt64[np.ndarray, " B"], is_special: Bool[np.ndarray, "B T"]
    ) -> tuple[Int[np.ndarray, "B M"], Bool[np.ndarray, "B M"]]:
        """Returns random positions of tokens that are not special, padded with 0, and which of them are not padding."""
        # The low 16 bits of a priority are its position. They break ties, so the order does not depend on the sorting
        # algorithm.
        bits = _random_bits(keys, start=0, count=self.length)
        priority = bits & ~np.uint64(0xFFFF) | np.arange(self.length, dtype=np.uint64)
        priority[is_special] = np.iinfo(np.uint64).max  # sorted last
        order = priority.argsort(axis=1)[:, : self.max_predictions]
        order = np.pad(order, ((0, 0), (0, self.max_predictions - order.shape[1])))  # T may be less than M
        counts = np.rint(self.rate * (~is_special).sum(axis=1)).astype(np.int64)
        is_used = np.arange(self.max_predictions) < counts[:, None]
        return np.where(is_used, order, 0).astype(np.int32), is_used

    def _choose_replacements(
        self, keys: UInt64[np.ndarray, " B"], targets: Int[np.ndarray, "B M"]
    ) -> Int[np.ndarray, "B M"]:
        """Returns the tokens that replace the targets: [MASK], a random token, or the target itself."""
        # The first T numbers chose the positions.
        bits = _random_bits(keys, start=self.length, count=self.max_predictions)
        uniform = (bits & np.uint64(0xFFFFFFFF)) / 2**32  # in [0, 1), from the low half of the bits
        ordinary = np.flatnonzero(~self._is_special)
        random_tokens = ordinary[(bits >> np.uint64(32)) % np.uint64(len(ordinary))]  # from the high half
        return np.select([uniform < 0.8, uniform < 0.9], [self.vocabulary.index(MASK), random_tokens], targets)


def _random_bits(keys: UInt64[np.ndarray, " B"], start: int, count: int) -> UInt64[np.ndarray, "B count"]:
    """Returns `count` numbers of the SplitMix64 stream of each key; leaves out the first `start` + 1."""
    counters = np.arange(start + 1, start + count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    return _mix(keys[:, None] + counters)


def _mix(x: UInt64[np.ndarray, "..."]) -> UInt64[np.ndarray, "..."]:
    """Applies the increment and then the output function of SplitMix64 (Steele, Lea, Flood, 2014)."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(_GOLDEN)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
