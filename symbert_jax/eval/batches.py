"""Tokenizes examples, and batches them by length, so that short ones are not padded to the length of the longest."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from symbert_jax.batch import GlueBatch
from symbert_jax.data.tokenizer import Tokenizer
from symbert_jax.eval.examples import Example

# A bucket holds the examples that are padded to one of these lengths. Each length costs a compilation, and a large
# distance between two lengths costs padding. The distances are small where tasks of one sentence have most examples.
LENGTHS = (*range(8, 32, 4), *range(32, 80, 8), *range(80, 128, 16), *(2**power for power in range(7, 21)))
MIN_BATCHES = 4  # a training bucket with fewer batches joins the next longer one, which saves a compilation
ORDER_SEED = 0  # shuffles the batches of an epoch, in the same way for all trials
PADDING_ROW = -1  # the index of a row that pads a batch: a copy of the last example, with weight 0


class PlannedBatch(NamedTuple):
    """The examples of one batch."""

    length: int  # T
    indices: Int[np.ndarray, " B"]  # of examples in their split, or PADDING_ROW


@dataclasses.dataclass(frozen=True, eq=False)
class TokenizedSplit:
    """All examples of a split, padded to one length T, which `tokenize` chooses."""

    tokens: Int[np.ndarray, "rows T"]
    lengths: Int[np.ndarray, " rows"]
    second_starts: Int[np.ndarray, " rows"]  # where the second sentence starts, as in `GlueBatch`
    labels: Float[np.ndarray, " rows"]  # as in `GlueBatch`; 0 in an unlabelled split

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def num_tokens(self) -> int:
        """The number of tokens without padding."""
        return int(self.lengths.sum())

    def batch(self, planned: PlannedBatch) -> GlueBatch:
        """Returns the arrays of a planned batch."""
        indices = planned.indices
        return GlueBatch(
            tokens=self.tokens[indices, : planned.length],
            lengths=self.lengths[indices],
            second_starts=self.second_starts[indices],
            labels=self.labels[indices],
            weights=(indices != PADDING_ROW).astype(np.float32),
        )

    def count_tokens(self, planned: PlannedBatch) -> int:
        """Returns the number of tokens of a planned batch without padding."""
        return int(self.lengths[planned.indices[planned.indices != PADDING_ROW]].sum())

    @functools.cached_property  # every trial needs it
    def fingerprint(self) -> str:
        """A SHA-256 of all arrays."""
        digest = hashlib.sha256()
        for array in (self.tokens, self.lengths, self.second_starts, self.labels):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def tokenize(tokenizer: Tokenizer, pad_id: int, examples: Sequence[Example], length: int) -> TokenizedSplit:
    """Tokenizes examples, each to at most `length` tokens; the longer sentence of a pair is truncated first.

    T is the length of the bucket that holds the longest example, or `length` if that is smaller.
    """
    tokenizer.enable_truncation(length, strategy="longest_first")
    encodings = tokenizer.encode_batch([each.texts if len(each.texts) > 1 else each.texts[0] for each in examples])
    lengths = np.array([len(encoding.ids) for encoding in encodings], np.int32)
    padded_length = min([length, *(bucket for bucket in LENGTHS if bucket >= lengths.max())])
    tokens = np.full((len(encodings), padded_length), pad_id, np.int32)
    for row, encoding in zip(tokens, encodings, strict=True):
        row[: len(encoding.ids)] = encoding.ids
    # The tokens of the second sentence, and only these, have type id 1; tokenizers such as RoBERTa's have no type id 1.
    second_starts = lengths - np.array([sum(encoding.type_ids) for encoding in encodings], np.int32)
    labels = np.array([each.label or 0.0 for each in examples], np.float32)
    return TokenizedSplit(tokens, lengths, second_starts, labels)


def training_plan(
    split: TokenizedSplit, batch_size: int, row_multiple: int, seed: int, epoch: int
) -> list[PlannedBatch]:
    """Returns the batches of one epoch: every example once, in batches of `batch_size` examples of similar length.

    The seed shuffles examples within a length bucket; the sequence of batch lengths is the same for all seeds, so that
    trials of different seeds can be trained in parallel. Examples that do not fill a batch move to the next longer
    bucket, so at most one batch is not full; it may be anywhere in the epoch. All batches are padded to the same
    number of rows, a multiple of `row_multiple`. A `batch_size` above the number of examples is reduced to that number.
    """
    batch_size = min(batch_size, len(split))
    rng = np.random.default_rng([seed, epoch])
    num_rows = -(-batch_size // row_multiple) * row_multiple
    buckets = _buckets(split, min_members=MIN_BATCHES * batch_size)
    shuffled = [(length, rng.permutation(members)) for length, members in buckets]
    batches = _fill(shuffled, batch_size, num_rows)
    return [batches[i] for i in np.random.default_rng([ORDER_SEED, epoch]).permutation(len(batches))]


def steps_per_epoch(split: TokenizedSplit, batch_size: int) -> int:
    return -(-len(split) // batch_size)


def prediction_plan(split: TokenizedSplit, batch_size: int) -> list[PlannedBatch]:
    """Returns batches of `batch_size` rows that contain every example once; padding rows fill the last one."""
    return _fill(_buckets(split, min_members=batch_size), batch_size, batch_size)


def _fill(buckets: Sequence[tuple[int, Int[np.ndarray, " _"]]], batch_size: int, num_rows: int) -> list[PlannedBatch]:
    """Returns batches of `batch_size` examples, padded to `num_rows` rows.

    Examples that do not fill a batch of their bucket move to the next longer one; only the last batch may not be full.
    """
    batches, rest = [], np.empty(0, np.int64)
    for length, members in buckets:
        members = np.concatenate([rest, members])
        num_full = len(members) // batch_size * batch_size  # the examples that fill batches
        batches += [PlannedBatch(length, _pad(batch, num_rows)) for batch in members[:num_full].reshape(-1, batch_size)]
        rest = members[num_full:]
    if len(rest):
        batches.append(PlannedBatch(length, _pad(rest, num_rows)))
    return batches


def _buckets(split: TokenizedSplit, min_members: int) -> list[tuple[int, Int[np.ndarray, " rows"]]]:
    """Returns the length of each bucket and the indices of its examples, the shortest bucket first.

    Examples of a bucket with fewer than `min_members` join the next longer bucket. The longest bucket may have fewer.
    """
    longest = split.tokens.shape[1]
    lengths = [length for length in LENGTHS if length < longest] + [longest]
    bucket_of = np.searchsorted(lengths, split.lengths)
    buckets: list[tuple[int, np.ndarray]] = []
    members = np.empty(0, np.int64)
    for i, length in enumerate(lengths):
        members = np.concatenate([members, np.flatnonzero(bucket_of == i)])
        if len(members) >= min_members or (length == longest and len(members)):
            buckets.append((length, members))
            members = np.empty(0, np.int64)
    return buckets


def _pad(indices: Int[np.ndarray, " rows"], multiple: int) -> Int[np.ndarray, " B"]:
    """Appends PADDING_ROW until the number of indices is a multiple of `multiple`."""
    return np.pad(indices, (0, -len(indices) % multiple), constant_values=PADDING_ROW)
