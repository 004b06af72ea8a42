"""Validation: the same sums as a training step, without dropout and without an update."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from symbert_jax.batch import MlmBatch
from symbert_jax.config import Config
from symbert_jax.data.stream import Stream
from symbert_jax.errors import UserError
from symbert_jax.model import bert
from symbert_jax.train.step import Sums, loss


def make_validation_step(config: Config) -> Callable[[bert.Params, MlmBatch], Sums]:
    """The compiled sums of one batch: `loss`, `correct`, `count`."""

    def step(params: bert.Params, batch: MlmBatch) -> Sums:
        return loss(config.model, params, batch, None, config.data.cross_document)[1]

    return jax.jit(step)


def check_targets(config: Config, stream: Stream) -> None:
    """Raises `UserError` where the batches that validate have no token to predict. Reads up to the first that has."""
    whole = dataclasses.replace(stream, local_rows=np.arange(stream.batch_size))  # the rows of all processes
    if not any(batch.weights.any() for batch in whole.validation_batches(config.train.validate_batches)):
        found = f"no token to predict in the validation rows of {config.data.dir}"
        hint = "its text is not of its vocabulary, or its rows are shorter than 1 / data.mask_rate: prepare it anew"
        raise UserError("data.dir", found, "rows with tokens other than special ones", hint)
