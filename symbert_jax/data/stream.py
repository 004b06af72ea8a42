"""The exact stream: the batch is a function of (seed, step), on any number of processes, after any restart."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import grain
import numpy as np
from jaxtyping import Int, UInt16

from symbert_jax.batch import MlmBatch
from symbert_jax.config import Config, UserError
from symbert_jax.data import rows
from symbert_jax.data.masking import Masking
from symbert_jax.data.vocabulary import read as read_vocabulary

VALIDATION_SEED = 0  # one set of validation masks for every run, so that losses compare


@runtime_checkable
class Rows(Protocol):
    """Random access to tokenised rows: mappings whose `tokens` are uint16[T]."""

    def __len__(self) -> int: ...
    def __getitems__(self, indices: Sequence[int]) -> Sequence[dict[str, Any]]: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """Process `process` of `processes` holds an equal, contiguous share of each batch of `batch_size` rows."""

    train: Rows
    validation: Rows
    masking: Masking
    batch_size: int
    process: int
    processes: int

    @functools.cached_property
    def order(self) -> grain.MapDataset[int]:
        """Place in the endless stream -> row: a permutation an epoch, computed, not stored."""
        return grain.MapDataset.range(len(self.train)).seed(self.masking.seed).shuffle().repeat()

    @property
    def share(self) -> int:
        return self.batch_size // self.processes

    def batch(self, step: int) -> MlmBatch:
        """This process's rows of the batch that takes state `step` to `step + 1`.

        Every epoch visits every row once, in an order of its own and under masks of its own.
        """
        first = step * self.batch_size + self.process * self.share
        places = range(first, first + self.share)
        chosen = np.array([self.order[place] for place in places])
        return self.masking(_tokens(self.train, chosen), chosen, np.array(places) // len(self.train))

    def batches(self, start: int, stop: int, threads: int) -> Iterator[MlmBatch]:
        """The batches of steps `start` to `stop`, made ahead of time by `threads`."""
        read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
        return iter(grain.MapDataset.range(start, stop).map(self.batch).to_iter_dataset(read))

    def validation_batches(self, limit: int) -> Iterator[MlmBatch]:
        """This process's share of `limit` batches (0: all) spread evenly over the split, each row at most once.

        Masks are the same in every run; the places that the last batch has too many carry weight 0.
        """
        masking = dataclasses.replace(self.masking, seed=VALIDATION_SEED)
        total = len(self.validation)
        count = min(total, limit * self.batch_size) if limit else total
        for first in range(self.process * self.share, -(-count // self.batch_size) * self.batch_size, self.batch_size):
            places = np.arange(first, first + self.share)
            chosen = np.minimum(places, count - 1) * total // count
            batch = masking(_tokens(self.validation, chosen), chosen, np.zeros_like(chosen))
            yield batch._replace(weights=batch.weights * (places < count)[:, None].astype(np.float32))


def open_stream(config: Config, process: int, processes: int) -> Stream:
    """The stream over the corpus in `config.data.dir`.

    Raises:
      UserError: the corpus is not there, or was made for another length or vocabulary.
    """
    folder, length = rows.find(config.data.dir), config.model.length
    train, validation = (rows.open_split(folder, split, length) for split in ("train", "validation"))
    vocabulary = read_words(config)
    if config.data.batch_size % processes:
        raise UserError("data.batch_size", str(config.data.batch_size), f"a multiple of the {processes} processes")
    masking = Masking(vocabulary, length, config.data.mask_rate, config.seed)
    return Stream(train, validation, masking, config.data.batch_size, process, processes)


def read_words(config: Config) -> list[str]:
    """The vocabulary of the corpus in `config.data.dir`.

    Raises:
      UserError: there is no corpus, or it has more words than the model.
    """
    folder = rows.find(config.data.dir)
    rows.read_manifest(folder)
    words = read_vocabulary(folder / rows.VOCAB)
    if len(words) > config.model.vocab_size:
        wanted = f"at least {len(words)}, the words of {folder / rows.VOCAB}"
        raise UserError("model.vocab_size", str(config.model.vocab_size), wanted)
    return words


def _tokens(rows: Rows, indices: Int[np.ndarray, " B"]) -> UInt16[np.ndarray, "B T"]:
    return np.stack([record["tokens"] for record in rows.__getitems__(indices.tolist())])
