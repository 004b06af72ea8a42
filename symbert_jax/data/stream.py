"""The exact stream: the batch is a function of (seed, step), on any number of processes, after any restart."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import grain
import numpy as np
from jaxtyping import Int, UInt16

from symbert_jax.batch import MlmBatch
from symbert_jax.config import Config
from symbert_jax.data import rows
from symbert_jax.data.masking import Masking
from symbert_jax.data.vocabulary import read as read_vocabulary
from symbert_jax.errors import UserError

SAMPLED = 256  # rows of a split that tell one corpus from another
VALIDATION_SEED = 0  # one set of validation masks for every run, so that losses compare


@runtime_checkable
class Rows(Protocol):
    """Random access to tokenised rows: mappings whose `tokens` are uint16[T]."""

    def __len__(self) -> int: ...
    def __getitems__(self, indices: Sequence[int]) -> Sequence[dict[str, Any]]: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """This process holds the rows `here` of each batch of `batch_size` rows."""

    train: Rows
    validation: Rows
    masking: Masking
    batch_size: int
    local_rows: Int[np.ndarray, " here"]
    may_lack_targets: bool  # whether all rows of a training batch may be without a token to predict

    @functools.cached_property
    def order(self) -> grain.MapDataset[int]:
        """Place in the endless stream -> row: a permutation an epoch, computed, not stored."""
        return grain.MapDataset.range(len(self.train)).seed(self.masking.seed).shuffle().repeat()

    def batch(self, step: int) -> MlmBatch:
        """This process's rows of the batch that takes state `step` to `step + 1`.

        Every epoch visits every row once, in an order of its own and under masks of its own.
        """
        max_predictions = step * self.batch_size + self.local_rows
        chosen = np.array([self.order[place] for place in max_predictions.tolist()])
        return self.masking(_tokens(self.train, chosen), chosen, max_predictions // len(self.train))

    def fingerprint(self) -> str:
        """A SHA-256 of the vocabulary, the number of rows of each split, and rows spread evenly over them."""
        digest = hashlib.sha256("\n".join(self.masking.vocabulary).encode())
        for split in (self.train, self.validation):
            spread = np.unique(np.linspace(0, len(split) - 1, SAMPLED).astype(int))
            digest.update(f"{len(split)}".encode() + _tokens(split, spread).tobytes())
        return digest.hexdigest()

    def batches(self, start: int, stop: int, threads: int) -> Iterator[MlmBatch]:
        """The batches of steps `start` to `stop`, made ahead of time by `threads`."""
        read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
        return iter(grain.MapDataset.range(start, stop).map(self.batch).to_iter_dataset(read))

    def validation_batches(self, limit: int) -> Iterator[MlmBatch]:
        """This process's rows of `limit` batches (0: all) spread evenly over the split, each row at most once.

        Masks are the same in every run; the places that the last batch has too many carry weight 0.
        """
        masking = dataclasses.replace(self.masking, seed=VALIDATION_SEED)
        total = len(self.validation)
        count = min(total, limit * self.batch_size) if limit else total
        for first in range(0, count, self.batch_size):
            max_predictions = first + self.local_rows
            chosen = np.minimum(max_predictions, count - 1) * total // count
            batch = masking(_tokens(self.validation, chosen), chosen, np.zeros_like(chosen))
            yield batch._replace(weights=batch.weights * (max_predictions < count)[:, None].astype(np.float32))


def open_stream(config: Config, local_rows: Int[np.ndarray, " here"]) -> Stream:
    """The stream over the corpus in `config.data.dir`; `here` are the rows of each batch that this process holds.

    Raises:
      UserError: the corpus is missing or damaged, or was prepared for another length or vocabulary.
    """
    folder, length = rows.find(config.data.dir), config.model.length
    train, validation = (rows.open_split(folder, split, length) for split in ("train", "validation"))
    vocabulary = read_words(config)
    masking = Masking(vocabulary, length, config.data.mask_rate, config.seed)
    fewest = rows.read_manifest(folder).fewest_maskable["train"]
    may_lack_targets = round(config.data.mask_rate * fewest) < 1  # as `Masking` rounds
    return Stream(train, validation, masking, config.data.batch_size, local_rows, may_lack_targets)


def read_words(config: Config) -> list[str]:
    """The vocabulary of the corpus in `config.data.dir`.

    Raises:
      UserError: there is no corpus, it is damaged, or it has more words than the model.
    """
    folder = rows.find(config.data.dir)
    rows.verify(folder, hashes=False)
    words = read_vocabulary(folder / rows.VOCAB)
    if len(words) > config.model.vocab_size:
        wanted = f"at least {len(words)}, the words of {folder / rows.VOCAB}"
        raise UserError("model.vocab_size", str(config.model.vocab_size), wanted)
    return words


def _tokens(rows: Rows, indices: Int[np.ndarray, " B"]) -> UInt16[np.ndarray, "B T"]:
    return np.stack([record["tokens"] for record in rows.__getitems__(indices.tolist())])
