"""The stream of batches: for a config and its corpora, a batch depends on its step alone, not on processes or restarts.

A run has a stream for each of its phases.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import grain
import numpy as np
from jaxtyping import Int

from symbert_jax.batch import MlmBatch
from symbert_jax.config import Config, phases
from symbert_jax.data.corpus import Corpora, Corpus
from symbert_jax.data.masking import Masking, mask_rate
from symbert_jax.data.rows import Rows, read_tokens
from symbert_jax.errors import UserError

VALIDATION_SEED = 0  # the same validation masks for every run, so that losses can be compared


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """The batches of a phase of a run. A process reads only those rows of a batch that it holds."""

    train: Rows
    validation: Rows
    masking: Masking
    validation_masking: Masking
    mask_rate: Callable[[int], float]  # the mask rate of the training batch of a step
    batch_size: int  # B, over all processes
    local_row_indices: Int[np.ndarray, " local"]  # the indices in a batch of the rows that this process holds
    may_lack_targets: bool  # whether a training batch may have no token to predict
    pad: int | None = None  # the id of [PAD] if rows have padding
    padding: float = 0.0  # the fraction of [PAD] among the tokens of the training rows
    start: int = 0  # the first step
    first_row: int = 0  # the rows that earlier phases of the run have read

    @functools.cached_property
    def order(self) -> grain.MapDataset[int]:
        """Maps each index of the endless stream of rows to the index of a row in the split.

        Every epoch has its own permutation, which is not stored.
        """
        return grain.MapDataset.range(len(self.train)).seed(self.masking.seed).shuffle().repeat()

    def batch(self, step: int) -> MlmBatch:
        """Returns this process's rows of the batch that takes state `step` to `step + 1`.

        Every epoch of the run visits every row once, with its own order and its own masks.
        """
        first = self.first_row + (step - self.start) * self.batch_size
        indices = first + self.local_row_indices  # in the endless stream of rows
        row_indices = np.array([self.order[index] for index in indices.tolist()])
        tokens, epochs = read_tokens(self.train, row_indices), indices // len(self.train)
        return self.masking(tokens, row_indices, epochs, self.mask_rate(step))

    def batches(self, start: int, stop: int, threads: int) -> Iterator[MlmBatch]:
        """Yields `batch(step)` for steps `start` to `stop` - 1; `threads` threads prepare them ahead of time."""
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
        return iter(grain.MapDataset.range(start, stop).map(self.batch).to_iter_dataset(options))

    def validation_batches(self, limit: int) -> Iterator[MlmBatch]:
        """Yields this process's rows of at most `limit` validation batches, or of all if `limit` is 0.

        The rows are spread evenly over the split, each at most once. The masks are the same in every run. The last
        batch is padded with rows of weight 0.
        """
        total = len(self.validation)
        count = min(total, limit * self.batch_size) if limit else total
        for start in range(0, count, self.batch_size):
            indices = start + self.local_row_indices  # in the sample of `count` rows
            row_indices = np.minimum(indices, count - 1) * total // count
            tokens = read_tokens(self.validation, row_indices)
            batch = self.validation_masking(tokens, row_indices, np.zeros_like(row_indices))
            yield batch._replace(weights=batch.weights * (indices < count)[:, None].astype(np.float32))


def open_stream(config: Config, corpus: Corpus, local_row_indices: Int[np.ndarray, " local"]) -> Stream:
    """Opens the stream of a corpus.

    local_row_indices: the indices in a batch of the rows that this process holds.

    Raises:
      UserError: the corpus is missing or damaged, or does not fit the model.
    """
    for problem in corpus.problems(config.model):
        raise problem
    data, tokenizer, length = config.data, corpus.tokenizer, config.model.length
    rates = [data.mask_rate, data.final_mask_rate or data.mask_rate]
    return Stream(
        train=corpus.split("train"),
        validation=corpus.split("validation"),
        masking=Masking(tokenizer, length, max(rates), config.seed, data.mask_split, data.mask_unit),
        validation_masking=Masking(tokenizer, length, data.validation_mask_rate, VALIDATION_SEED),
        mask_rate=functools.partial(mask_rate, config),
        batch_size=data.batch_size,
        local_row_indices=local_row_indices,
        # as `Masking` rounds; it leaves out words of more tokens than the row may have targets
        may_lack_targets=data.mask_unit != "token" or round(min(rates) * corpus.manifest.fewest_maskable["train"]) < 1,
        pad=tokenizer.pad_id if max(corpus.manifest.padding.values()) > 0 else None,
        padding=corpus.manifest.padding["train"],
    )


def open_streams(
    config: Config, corpora: Corpora, find_local_rows: Callable[[int], Int[np.ndarray, " local"]]
) -> list[Stream]:
    """Opens the stream of every phase of a run.

    find_local_rows: returns the indices of the rows that this process holds in a batch of so many rows.

    Raises:
      UserError: as `open_stream`; it names the phase.
    """
    streams = []
    for phase in phases(config):
        data = phase.config.data
        try:
            stream = open_stream(phase.config, corpora[data.dir], find_local_rows(data.batch_size))
        except UserError as problem:
            raise phase.named(problem) from None
        streams.append(dataclasses.replace(stream, start=phase.steps.start, first_row=phase.first_row))
    return streams


def run_batches(config: Config, streams: Sequence[Stream], start: int) -> Iterator[MlmBatch]:
    """Yields the batches of a run from step `start` on, with the streams of its phases."""
    for phase, stream in zip(phases(config), streams, strict=True):
        if start < phase.steps.stop:
            yield from stream.batches(max(start, phase.steps.start), phase.steps.stop, config.data.reader_threads)
