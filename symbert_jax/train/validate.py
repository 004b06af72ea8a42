"""Validation: the same sums as a training step, without dropout and without an update."""

from collections.abc import Callable

import jax

from symbert_jax.batch import MlmBatch
from symbert_jax.config import Config
from symbert_jax.model import bert
from symbert_jax.train.step import Sums, loss


def make_validation_step(config: Config) -> Callable[[bert.Params, MlmBatch], Sums]:
    """The compiled sums of one batch: `loss`, `correct`, `count`."""

    def step(params: bert.Params, batch: MlmBatch) -> Sums:
        return loss(config.model, params, batch, None, config.data.cross_document)[1]

    return jax.jit(step)
