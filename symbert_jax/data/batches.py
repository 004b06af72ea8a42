"""The training batches of a config, for a training loop outside of this package."""

from collections.abc import Iterator

import numpy as np

from symbert_jax.batch import MlmBatch
from symbert_jax.config import Config, ConfigDict, check, freeze
from symbert_jax.data.corpus import Corpora
from symbert_jax.data.stream import open_streams, run_batches
from symbert_jax.errors import UserError


def batches(config: Config | ConfigDict, start: int = 0) -> Iterator[MlmBatch]:
    """Returns the batches that `pretrain` trains on with a config, from step `start` until `config.train.steps`.

        from configs.tiny import get_config

        for batch in symbert_jax.batches(get_config()):
            batch.tokens  # int32[B, T]; see `symbert_jax.batch.MlmBatch`

    Batch i, which takes state i to state i + 1, is a function of the config, the corpus and i. Batches are numpy arrays
    with all B rows, whatever the number of processes; `config.data.reader_threads` threads prepare them ahead of time.

    config: the config of a `Model`, or a result of `get_config` in a config file, with any field changed.

    Raises:
      UserError: the config is invalid; the corpus in `config.data.dir` is missing or damaged, or does not fit the
        model; or `start` is negative.
    """
    config = freeze(config) if isinstance(config, ConfigDict) else config
    check(config)
    if start < 0:
        raise UserError("start", str(start), "a step, from 0")
    return run_batches(config, open_streams(config, Corpora(), find_local_rows=np.arange), start)
