"""Dynamic masking (Devlin et al., 2018; new every epoch as in Liu et al., 2019) by counter-based randomness.

Which tokens of a row are hidden, and by what, is a pure function of (seed, row, epoch): no generator is
carried along, so any process at any time can make any row.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, UInt16, UInt64

from symbert_jax.batch import MlmBatch
from symbert_jax.data.vocabulary import MASK, SPECIAL
from symbert_jax.errors import UserError

_GOLDEN = 0x9E3779B97F4A7C15


def max_predictions(length: int, rate: float) -> int:
    """M, the fixed number of places for masked tokens in a row of `length`: enough for every row, a multiple of 8."""
    return -(-math.ceil(rate * length) // 8) * 8


@dataclass(frozen=True, eq=False)
class Masking:
    """Masks rows of `length` tokens over `vocabulary`.

    round(rate * n) of the n non-special tokens are to be predicted: 80% of them show [MASK], 10% a random
    non-special token, 10% themselves.
    """

    vocabulary: Sequence[str]
    length: int
    rate: float
    seed: int

    @property
    def max_predictions(self) -> int:
        return max_predictions(self.length, self.rate)

    @functools.cached_property
    def _special(self) -> Bool[np.ndarray, " V"]:
        return np.array([word in SPECIAL for word in self.vocabulary])

    def __call__(
        self, tokens: UInt16[np.ndarray, "B T"], rows: Int[np.ndarray, " B"], epochs: Int[np.ndarray, " B"]
    ) -> MlmBatch:
        """`tokens` of row numbers `rows` as they are masked in `epochs`.

        Raises:
          UserError: a token is not in the vocabulary.
        """
        if (largest := int(tokens.max(initial=0))) >= len(self.vocabulary):
            wanted = f"tokens below {len(self.vocabulary)}, the size of the vocabulary"
            raise UserError("data.dir", f"token {largest} in a row", wanted, "the corpus is damaged: prepare it again")
        row_key = _mix(_mix(_mix(np.array([self.seed], np.uint64)) + rows.astype(np.uint64)) + epochs.astype(np.uint64))
        special = self._special[tokens]
        # A random number a token with the token's place in its low 16 bits: sorting one array picks places.
        order = _bits(row_key, 0, self.length) & ~np.uint64(0xFFFF) | np.arange(self.length, dtype=np.uint64)
        order[special] = np.iinfo(np.uint64).max
        order.sort(axis=1)
        chosen = np.rint(self.rate * (~special).sum(axis=1)).astype(np.int64)
        used = np.arange(self.max_predictions) < chosen[:, None]
        first = order.take(
            range(self.max_predictions), axis=1, mode="clip"
        )  # a short row may have more places than tokens
        positions = np.where(used, first & np.uint64(0xFFFF), 0).astype(np.int32)
        targets = np.take_along_axis(tokens, positions, axis=1).astype(np.int32)

        fate = _bits(row_key, self.length, self.max_predictions)
        dice, word = fate & np.uint64(0xFFFFFFFF), fate >> np.uint64(32)
        ordinary = np.flatnonzero(~self._special)
        random_word = ordinary[word % np.uint64(len(ordinary))]
        mask = self.vocabulary.index(MASK)
        shown = np.where(dice < 0.8 * 2**32, mask, np.where(dice < 0.9 * 2**32, random_word, targets))
        masked = tokens.astype(np.int32)
        row, place = np.nonzero(used)
        masked[row, positions[row, place]] = shown[row, place]
        return MlmBatch(masked, positions, np.where(used, targets, 0), used.astype(np.float32))


def _bits(keys: UInt64[np.ndarray, " B"], start: int, count: int) -> UInt64[np.ndarray, "B count"]:
    """Numbers `start` to `start + count` of the SplitMix64 streams with these keys."""
    counters = np.arange(start + 1, start + count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    return _mix(keys[:, None] + counters)


def _mix(x: UInt64[np.ndarray, "..."]) -> UInt64[np.ndarray, "..."]:
    """The output function of SplitMix64 (Steele, Lea, Flood, 2014), with the increment applied first."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(_GOLDEN)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
