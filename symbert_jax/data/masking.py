"""Masks tokens as BERT does (Devlin et al., 2018), anew in every epoch (Liu et al., 2019).

The random numbers are counter-based: the masked tokens of a row and their replacements are a pure function of (seed,
row, epoch, mask rate). There is no generator state to keep, so any process can mask any row at any time.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt, UInt64

from symbert_jax.batch import MlmBatch
from symbert_jax.config import Config
from symbert_jax.data.tokenizer import TextTokenizer
from symbert_jax.data.whole_words import choose_words, find_spans, find_words
from symbert_jax.errors import UserError

_GOLDEN = 0x9E3779B97F4A7C15  # the increment of SplitMix64: 2**64 divided by the golden ratio
_SPLIT = (0.8, 0.1, 0.1)  # BERT's


def mask_rate(config: Config, step: int) -> float:
    """Returns the mask rate of the training batch that takes state `step` to `step + 1`."""
    first = config.data.mask_rate
    last = config.data.final_mask_rate or first
    return first + (last - first) * step / config.train.steps


def max_train_predictions(config: Config) -> int:
    """Returns M of every training batch, that of the largest mask rate, so that the step compiles once."""
    return max_predictions(config.model.length, max(config.data.mask_rate, config.data.final_mask_rate))


def max_validation_predictions(config: Config) -> int:
    """Returns M of a validation batch."""
    return max_predictions(config.model.length, config.data.validation_mask_rate)


def max_predictions(length: int, rate: float) -> int:
    """Returns M, the most predictions that a row of `length` tokens can need, rounded up to a multiple of 8."""
    return -(-math.ceil(rate * length) // 8) * 8


@dataclass(frozen=True, eq=False)
class Masking:
    """Masks rows of `length` tokens.

    Of the n tokens of a row that are not special, round(rate * n) are predicted. Each of these is replaced by [MASK],
    replaced by a random token that is not special, or kept, with the probabilities of `split`.
    """

    tokenizer: TextTokenizer  # the tokenizer of the rows
    length: int  # T
    rate: float  # the largest mask rate, which determines M
    seed: int
    split: tuple[float, ...] = _SPLIT  # the probabilities of [MASK], of a random token, and of the token itself
    # token: single tokens are predicted; word: whole words; span: spans of whole words, each replaced as one: [MASK]
    # replaces all of its tokens, or random tokens do, or all are kept
    unit: str = "token"

    @property
    def max_predictions(self) -> int:
        return max_predictions(self.length, self.rate)

    @functools.cached_property
    def _is_special(self) -> Bool[np.ndarray, " V"]:
        return self.tokenizer.is_special

    @functools.cached_property
    def _continues_word(self) -> Bool[np.ndarray, " V"]:
        return self.tokenizer.continues_word

    @functools.cached_property
    def _ordinary(self) -> Int[np.ndarray, " ordinary"]:
        """The ids of the tokens that are not special."""
        return np.flatnonzero(~self._is_special)

    def __call__(
        self,
        tokens: UInt[np.ndarray, "B T"],
        row_indices: Int[np.ndarray, " B"],
        epochs: Int[np.ndarray, " B"],
        rate: float | None = None,
    ) -> MlmBatch:
        """Returns the batch of `tokens` with masks.

        row_indices: for each row of `tokens`, its index in the split.
        epochs: the epoch of each row. The seed, the index and the epoch of a row determine its masks.
        rate: the mask rate, at most `self.rate`; None: `self.rate`.

        Raises:
          UserError: a token is not in the vocabulary.
        """
        if (largest := int(tokens.max(initial=0))) >= len(self._is_special):
            wanted = f"tokens below {len(self._is_special)}, the size of the vocabulary"
            raise UserError("data.dir", f"token {largest} in a row", wanted, "the corpus is damaged: prepare it again")
        # One key, and so one stream of random numbers, for each (seed, row, epoch).
        seed, indices = np.array([self.seed], np.uint64), row_indices.astype(np.uint64)
        keys = _mix(_mix(_mix(seed) + indices) + epochs.astype(np.uint64))
        is_special = self._is_special[tokens]
        counts = np.rint((self.rate if rate is None else rate) * (~is_special).sum(axis=1)).astype(np.int64)
        # The first T numbers choose the positions, the next M the replacements.
        bits = _random_bits(keys, start=0, count=self.length)
        uniform, random_tokens = self._draw_replacements(keys)
        if self.unit == "token":
            positions, is_used = self._choose_positions(bits, is_special, counts)
        else:
            words = find_words(is_special, self._continues_word[tokens])
            spans = find_spans(bits, words, is_special) if self.unit == "span" else None
            positions, is_used = self._to_positions(choose_words(bits, words, spans, counts))
            if spans is not None:
                of_token = np.take_along_axis(spans, words, axis=1)
                uniform = _share_first(uniform, np.take_along_axis(of_token, positions, axis=1))
        targets = np.take_along_axis(tokens, positions, axis=1).astype(np.int32)
        masked = tokens.astype(np.int32)
        mask_end, random_end = self.split[0], self.split[0] + self.split[1]
        choices = [np.full_like(random_tokens, self.tokenizer.mask_id), random_tokens]
        replacements = np.select([uniform < mask_end, uniform < random_end], choices, targets)
        row, slot = np.nonzero(is_used)
        masked[row, positions[row, slot]] = replacements[row, slot]
        return MlmBatch(masked, positions, np.where(is_used, targets, 0), is_used.astype(np.float32))

    def _choose_positions(
        self, bits: UInt64[np.ndarray, "B T"], is_special: Bool[np.ndarray, "B T"], counts: Int[np.ndarray, " B"]
    ) -> tuple[Int[np.ndarray, "B M"], Bool[np.ndarray, "B M"]]:
        """Returns random positions of tokens that are not special, padded with 0, and which of them are not padding."""
        # The low 16 bits of a priority are its position. They break ties, so the order does not depend on the sorting
        # algorithm.
        priority = bits & ~np.uint64(0xFFFF) | np.arange(self.length, dtype=np.uint64)
        priority[is_special] = np.iinfo(np.uint64).max  # sorted last
        order = priority.argsort(axis=1)[:, : self.max_predictions]
        order = np.pad(order, ((0, 0), (0, self.max_predictions - order.shape[1])))  # T may be less than M
        is_used = np.arange(self.max_predictions) < counts[:, None]
        return np.where(is_used, order, 0).astype(np.int32), is_used

    def _to_positions(
        self, is_chosen: Bool[np.ndarray, "B T"]
    ) -> tuple[Int[np.ndarray, "B M"], Bool[np.ndarray, "B M"]]:
        """Returns the positions of the chosen tokens in order, padded with 0, and which of them are not padding."""
        counts = is_chosen.sum(axis=1)
        is_used = np.arange(self.max_predictions) < counts[:, None]
        positions = np.zeros(is_used.shape, np.int32)
        positions[is_used] = np.nonzero(is_chosen)[1]  # both are in the order of rows, and of positions in a row
        return positions, is_used

    def _draw_replacements(
        self, keys: UInt64[np.ndarray, " B"]
    ) -> tuple[Float[np.ndarray, "B M"], Int[np.ndarray, "B M"]]:
        """Returns numbers in [0, 1) and tokens that are not special, all of them random."""
        bits = _random_bits(keys, start=self.length, count=self.max_predictions)
        uniform = (bits & np.uint64(0xFFFFFFFF)) / 2**32  # from the low half of the bits
        return uniform, self._ordinary[(bits >> np.uint64(32)) % np.uint64(len(self._ordinary))]  # from the high half


def _share_first(values: Float[np.ndarray, "B M"], groups: Int[np.ndarray, "B M"]) -> Float[np.ndarray, "B M"]:
    """Replaces every value by the first of its group; the members of a group are adjacent."""
    starts = np.diff(groups, axis=1, prepend=-1) != 0
    first = np.maximum.accumulate(np.where(starts, np.arange(groups.shape[1]), 0), axis=1)
    return np.take_along_axis(values, first, axis=1)


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
