"""Validation: the objective of training, without dropout and without an update."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from symbert_jax.batch import MlmBatch
from symbert_jax.config import Config
from symbert_jax.data.stream import Stream
from symbert_jax.errors import UserError
from symbert_jax.model import bert
from symbert_jax.train.state import State
from symbert_jax.train.step import Sums, mlm_objective


def make_validation_step(config: Config, pad: int | None = None) -> Callable[[bert.Params, MlmBatch], Sums]:
    """Returns the compiled objective (parameters, batch) -> sums.

    pad: the id of [PAD] if rows may have padding.
    """
    objective = functools.partial(mlm_objective, config.model, cross_document=config.data.cross_document, pad=pad)

    def step(params: bert.Params, batch: MlmBatch) -> Sums:
        return objective(params, batch, key=None)

    return jax.jit(step)


def validation_sums(
    validation_step: Callable[[bert.Params, MlmBatch], Any], state: State, batch: MlmBatch
) -> dict[str, Any]:
    """Returns the sums of a batch by name, and if there is a moving average, its sums by names that begin with ema_.

    The state and the sums may be those of several runs, with a leading dimension R.
    """
    sums: dict[str, Any] = validation_step(state.params, batch)
    averaged = validation_step(state.ema, batch) if state.ema else {}
    return sums | {f"ema_{name}": pair for name, pair in averaged.items()}


def check_targets(config: Config, stream: Stream) -> None:
    """Raises `UserError` if no validation batch has a token to predict. Reads up to the first batch that has one."""
    all_rows = dataclasses.replace(stream, local_row_indices=np.arange(stream.batch_size))  # the rows of all processes
    if not any(batch.weights.any() for batch in all_rows.validation_batches(config.train.validate_batches)):
        found = f"no token to predict in the validation rows of {config.data.dir}"
        hint = (
            "prepare it again with a vocabulary that fits its text, and rows longer than 1 / data.validation_mask_rate"
        )
        raise UserError("data.dir", found, "rows with tokens other than special ones", hint)
