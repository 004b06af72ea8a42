"""Memory, FLOPs, step time and training time of a config on a slice."""

import dataclasses
import math
from typing import Any

import jax

from symbert_jax.config import Config
from symbert_jax.data.masking import max_train_predictions
from symbert_jax.estimate.programs import Program, compile_train, compile_validation, make_slice_mesh
from symbert_jax.estimate.slices import Slice, compiler_version
from symbert_jax.model import bert
from symbert_jax.model.flops import train_flops
from symbert_jax.train import state as states


@dataclasses.dataclass(frozen=True)
class Summary:
    """Estimates for a config on a slice. Memory is in bytes per chip."""

    source: str  # says that the numbers are estimates, and by which version of libtpu
    topology: str
    chips: int
    mesh: dict[str, int]
    attention: str
    parameters: int  # the number of parameters of the model
    batch_size: int  # over all chips
    rows_per_chip: float
    memory_available: float  # the HBM that a program may use
    memory_parameters: float
    memory_optimizer: float
    memory_temporaries: float  # the rest of `train.memory`, the peak of the training step
    model_flops: float  # FLOPs of a step, over all chips
    train: Program
    validation: Program
    tokens_per_second: float  # over all chips
    mfu: float  # `model_flops` per second as a fraction of the peak of all chips
    steps: int  # of the run, or of one of its phases
    hours: float  # the duration of these steps, including validation unless `validate_batches` is 0
    bound: str  # the resource with the longest time in `train.least_seconds`: compute, memory or network
    fits: bool = True  # always; for a program that does not fit, `report` writes JSON with `fits` false and no summary


def summarize(config: Config, target: Slice, steps: int) -> Summary:
    """Compiles the training and the validation step of a config for a slice.

    steps: the steps of the run, or of the phase that the config describes.

    Raises:
      DoesNotFit: a step needs more memory than a chip has.
      UserError: a step cannot run on the slice.
    """
    train, validation = compile_train(config, target), compile_validation(config, target)
    mesh = make_slice_mesh(config, target)
    with jax.set_mesh(mesh):
        state = states.abstract(config)
    parameter_bytes, optimizer_bytes = _bytes_per_chip(state.params), _bytes_per_chip((state.optimizer, state.ema))
    predictions_per_row = max_train_predictions(config)
    model_flops = train_flops(config.model, config.data.batch_size, predictions_per_row)
    validation_batches = -(-steps // config.train.validate_every) * config.train.validate_batches
    validation_batches *= 2 if config.optim.ema else 1  # the moving average is validated, too
    return Summary(
        source=f"the TPU compiler's estimate, not a measurement: libtpu {compiler_version()}",
        topology=target.name,
        chips=mesh.size,
        mesh=dict(mesh.shape),
        attention=config.model.attention,
        parameters=bert.size(config.model),
        batch_size=config.data.batch_size,
        rows_per_chip=config.data.batch_size / mesh.size,
        memory_available=target.chip.hbm,
        memory_parameters=parameter_bytes,
        memory_optimizer=optimizer_bytes,
        memory_temporaries=train.memory - parameter_bytes - optimizer_bytes,
        model_flops=model_flops,
        train=train,
        validation=validation,
        tokens_per_second=config.data.batch_size * config.model.length / train.seconds,
        mfu=model_flops / train.seconds / (target.chip.peak * mesh.size),
        steps=steps,
        hours=(steps * train.seconds + validation_batches * validation.seconds) / 3600,
        bound=max(train.least_seconds, key=lambda name: train.least_seconds[name]),
    )


def _bytes_per_chip(tree: Any) -> float:
    """Returns the bytes of one chip's shards of all arrays in a tree."""
    leaves = jax.tree.leaves(tree)
    return float(sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves))
