"""GLUE examples as arrays: tokenised once, and batched by length so that short texts do not pay for long ones."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from symbert_jax.batch import GlueBatch
from symbert_jax.data.tokenizer import Tokenizer
from symbert_jax.data.vocabulary import PAD
from symbert_jax.eval.examples import Example

# Of the buckets. Each is a compilation, and half a step of padding: fine where tasks of one sentence have most rows.
LENGTHS = (*range(8, 32, 4), *range(32, 80, 8), *range(80, 128, 16), 128, 256, 512)
FEW = 4  # batches: a bucket with fewer joins the next longer one, for they are not worth a compilation
ORDER = 0  # seeds the order of the lengths within an epoch, which all seeds of the data share
FILLER = -1  # the row that only fills a batch


class PlannedBatch(NamedTuple):
    """One batch of a plan: the rows of `Examples` that it takes."""

    length: int  # T
    rows: Int[np.ndarray, " B"]


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """All examples of a split, padded to the longest."""

    tokens: Int[np.ndarray, "rows T"]
    lengths: Int[np.ndarray, " rows"]
    seconds: Int[np.ndarray, " rows"]
    labels: Float[np.ndarray, " rows"]  # 0 where there are none

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def size(self) -> int:
        """Tokens, without padding."""
        return int(self.lengths.sum())

    def batch(self, planned: PlannedBatch) -> GlueBatch:
        """The rows of a planned batch, at its length; a filler has weight 0."""
        rows = planned.rows
        return GlueBatch(
            tokens=self.tokens[rows, : planned.length],
            lengths=self.lengths[rows],
            seconds=self.seconds[rows],
            labels=self.labels[rows],
            weights=(rows != FILLER).astype(np.float32),
        )

    def count(self, planned: PlannedBatch) -> int:
        """The tokens of a planned batch, without padding."""
        return int(self.lengths[planned.rows[planned.rows != FILLER]].sum())

    @functools.cached_property  # every trial needs it
    def fingerprint(self) -> str:
        """A SHA-256 of all arrays."""
        digest = hashlib.sha256()
        for array in (self.tokens, self.lengths, self.seconds, self.labels):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def encode(tokenizer: Tokenizer, examples: Sequence[Example], length: int) -> Examples:
    """Tokenises `examples` to at most `length` tokens each; the longer sentence of a pair is cut first."""
    tokenizer.enable_truncation(length, strategy="longest_first")
    encoded = tokenizer.encode_batch([texts if len(texts := each.texts) > 1 else texts[0] for each in examples])
    lengths = np.array([len(each.ids) for each in encoded], np.int32)
    longest = min([length, *(bucket for bucket in LENGTHS if bucket >= lengths.max())])
    tokens = np.full((len(encoded), longest), tokenizer.token_to_id(PAD), np.int32)
    for row, each in zip(tokens, encoded, strict=True):
        row[: len(each.ids)] = each.ids
    seconds = lengths - np.array([sum(each.type_ids) for each in encoded], np.int32)
    return Examples(tokens, lengths, seconds, np.array([each.label or 0.0 for each in examples], np.float32))


def training_plan(examples: Examples, batch_size: int, row_multiple: int, seed: int, epoch: int) -> list[PlannedBatch]:
    """One epoch: every example once, in batches of `batch_size` examples of similar length.

    The seed shuffles examples within a length bucket; the order of buckets is the same for all seeds, so that they can
    train side by side. One batch may have fewer examples, as the last one of an epoch usually does. All batches are
    filled to the same number of rows, a multiple of `row_multiple`; a `batch_size` above the number of examples counts
    as that number.
    """
    batch_size = min(batch_size, len(examples))
    rng = np.random.default_rng([seed, epoch])
    rows = -(-batch_size // row_multiple) * row_multiple
    batches, left = [], np.empty(0, np.int64)
    for length, members in _buckets(examples, FEW * batch_size):
        members = np.concatenate([left, rng.permutation(members)])
        full = len(members) // batch_size * batch_size
        batches += [PlannedBatch(length, _filled(group, rows)) for group in members[:full].reshape(-1, batch_size)]
        left = members[full:]
    if len(left):
        batches.append(PlannedBatch(length, _filled(left, rows)))
    return [batches[i] for i in np.random.default_rng([ORDER, epoch]).permutation(len(batches))]


def steps_per_epoch(examples: Examples, batch_size: int) -> int:
    return -(-len(examples) // batch_size)


def prediction_plan(examples: Examples, batch_size: int) -> list[PlannedBatch]:
    """Every example once, in batches of exactly `batch_size` rows."""
    return [
        PlannedBatch(length, _filled(members[first : first + batch_size], batch_size))
        for length, members in _buckets(examples, batch_size)
        for first in range(0, len(members), batch_size)
    ]


def _buckets(examples: Examples, few: int) -> list[tuple[int, Int[np.ndarray, " rows"]]]:
    """Lengths and the examples that go there, the shortest first; a bucket of under `few` joins the next."""
    longest = examples.tokens.shape[1]
    ends = [length for length in LENGTHS if length < longest] + [longest]
    chosen = np.searchsorted(ends, examples.lengths)
    found: list[tuple[int, np.ndarray]] = []
    members = np.empty(0, np.int64)
    for bucket, length in enumerate(ends):
        members = np.concatenate([members, np.flatnonzero(chosen == bucket)])
        if len(members) >= few or (length == longest and len(members)):
            found.append((length, members))
            members = np.empty(0, np.int64)
    return found


def _filled(rows: Int[np.ndarray, " rows"], multiple: int) -> Int[np.ndarray, " B"]:
    return np.pad(rows, (0, -len(rows) % multiple), constant_values=FILLER)
