"""The statistics of attention that a run writes with every validation."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping

import jax
from jaxtyping import Float

from symbert_jax.batch import Array as AnyArray
from symbert_jax.batch import MlmBatch
from symbert_jax.config import Config
from symbert_jax.data.stream import Stream
from symbert_jax.metrics import Values
from symbert_jax.model import bert
from symbert_jax.model.diagnostics import Statistics, attention_statistics
from symbert_jax.model.documents import find_segments
from symbert_jax.sharding import local_row_indices, put_batch

ROWS = 32  # validation rows of at most 512 tokens; of longer ones fewer, with as many probabilities


def make_diagnostics(config: Config, stream: Stream) -> Callable[[bert.Params], Values]:
    """Returns the function from parameters to the statistics of every layer on the same few validation rows.

    The values have the names attention/STATISTIC/layer_I, with I from 0. A value that is not finite is left out. Call
    it on every process, under the mesh of the run.
    """
    batch, step = sample_batch(stream), jax.jit(functools.partial(compute, config, stream.pad))
    return lambda params: to_values(step(params, batch))


def sample_batch(stream: Stream) -> MlmBatch:
    """Returns, on the devices, the validation rows from which the statistics are computed."""
    mesh = jax.sharding.get_mesh()
    share = min(1.0, (512 / stream.masking.length) ** 2)
    multiple = mesh.shape["data"]
    rows = min(math.ceil(ROWS * share / multiple) * multiple, stream.batch_size)
    sample = dataclasses.replace(stream, batch_size=rows, local_row_indices=local_row_indices(rows, mesh))
    return put_batch(next(sample.validation_batches(1)))


def compute(config: Config, pad: int | None, params: bert.Params, batch: MlmBatch) -> Statistics:
    """Returns the statistics of every layer. Tokens see each other as in training.

    pad: the id of [PAD] if rows may have padding.
    """
    segments, position_ids = find_segments(batch.tokens, config.data.cross_document, pad)
    return attention_statistics(config.model, params, batch.tokens, segments=segments, position_ids=position_ids)


def to_values(statistics: Mapping[str, Float[AnyArray, " L"]]) -> Values:
    """Returns the metrics of a run by their names."""
    values = {
        f"attention/{name}/layer_{layer}": float(value)
        for name, layers in jax.device_get(statistics).items()
        for layer, value in enumerate(layers)
    }
    return {name: value for name, value in values.items() if math.isfinite(value)}
