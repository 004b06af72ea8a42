"""Compiles the training and the validation step for a TPU slice, on a machine without TPUs, and estimates their time.

They are the steps that `pretrain` runs, lowered with shapes instead of arrays. The compiler refuses a program that does
not fit in HBM.
"""

import contextlib
import dataclasses
import functools
import re
from typing import Any

import jax

from symbert_jax.config import Config
from symbert_jax.data.masking import max_train_predictions, max_validation_predictions
from symbert_jax.estimate.cost import PALLAS, Cost, program_cost
from symbert_jax.estimate.kernel_cycles import attention_cycles, num_passes
from symbert_jax.estimate.schedules import UnknownSchedule
from symbert_jax.estimate.slices import Slice
from symbert_jax.model import kernels
from symbert_jax.model.flops import attention_flops
from symbert_jax.sharding import make_mesh, problems
from symbert_jax.train import state as states
from symbert_jax.train.step import abstract_batch, make_train_step
from symbert_jax.train.validate import make_validation_step

# Bytes that each of n chips sends for a collective around a ring, as a multiple of `Exchange.bytes`.
RING_TRAFFIC = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1.0,
}

REGIONS = ("embedding", "attention", "feed_forward", "norm", "head", "loss", "optimizer")  # named scopes of the step
KERNEL = "attention_kernel"  # the region of the Pallas kernels of attention


class DoesNotFit(Exception):
    """A program needs more HBM than a chip has. `needed` and `available` are in bytes per chip."""

    def __init__(self, needed: float, available: float):
        super().__init__(f"{needed:.0f} of {available:.0f} bytes")
        self.needed, self.available = needed, available


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled step on one chip."""

    memory: float  # peak bytes of HBM, arguments included
    cost: Cost  # with the cycles of attention's Pallas kernels, in the region KERNEL, if their schedules are known
    cycle_seconds: float  # the time of all cycles
    roofline_seconds: float  # the time of `cost.unestimated`: for each kind, the longer of its compute and memory times
    network_seconds: float  # the time of the collectives
    seconds: float  # the sum of the three above, as if nothing overlapped
    least_seconds: dict[str, float]  # the time at peak rate of each resource: compute, memory and network


@functools.cache  # the report needs a program that the search for a batch size has compiled
def compile_train(config: Config, target: Slice) -> Program:
    """Compiles the training step; raises `DoesNotFit`, or `UserError` if it cannot run on the slice."""
    step, predictions = make_train_step(config, pad=_pad(config)), max_train_predictions(config)
    return _compile(config, target, step, predictions, is_training=True)


def compile_validation(config: Config, target: Slice) -> Program:
    """Compiles the validation step; raises the same errors as `compile_train`."""
    step, predictions = make_validation_step(config, pad=_pad(config)), max_validation_predictions(config)
    return _compile(config, target, step, predictions, is_training=False)


def _pad(config: Config) -> int | None:
    """Returns an id for [PAD] if rows have padding. The cost of a program does not depend on the id."""
    return 0 if config.data.packing == "best_fit" else None


def _compile(config: Config, target: Slice, step: Any, predictions: int, is_training: bool) -> Program:
    """Compiles a jitted step and estimates its time.

    predictions: M, the most predictions of a row in its batch.
    is_training: whether the step takes the whole state, otherwise the parameters alone.
    """
    mesh = make_slice_mesh(config, target)
    kernels.check(config.model, mesh.abstract_mesh.abstract_device)
    for problem in problems(config, mesh):
        raise problem
    with jax.set_mesh(mesh):
        state = states.abstract(config)
        lowered = step.lower(state if is_training else state.params, abstract_batch(config, predictions))
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        raise _as_does_not_fit(error) or error from None
    chip, cost = target.chip, program_cost(compiled.as_text() or "", mesh.size, REGIONS)
    flops = cost.flops
    if any(part.kind == PALLAS for part in cost.unestimated):
        # The program does not state the FLOPs of these kernels. A backward pass costs as much as two forward passes.
        forward, backward = num_passes(config.model, is_training)
        flops += (forward + 2 * backward) * attention_flops(config.model, config.data.batch_size) / mesh.size
        with contextlib.suppress(UnknownSchedule):  # the kernels stay among the work without an estimate
            cost = _with_kernels(cost, attention_cycles(config, target, mesh, is_training))
    roofline = sum(max(part.flops / chip.peak, part.bytes / chip.bandwidth) for part in cost.unestimated)
    bytes_sent = sum(RING_TRAFFIC[part.kind](part.group) * part.bytes for part in cost.collectives)
    network = bytes_sent / chip.network(target.axes) if bytes_sent else 0.0
    cycle_seconds = cost.cycles / chip.clock
    return Program(
        memory=float(compiled.memory_analysis().peak_memory_in_bytes),
        cost=cost,
        cycle_seconds=cycle_seconds,
        roofline_seconds=roofline,
        network_seconds=network,
        seconds=cycle_seconds + roofline + network,
        least_seconds={
            "compute": flops / chip.peak,
            "memory": cost.bytes / chip.bandwidth,
            "network": network,
        },
    )


def _with_kernels(cost: Cost, cycles: int) -> Cost:
    """Returns a cost in which these cycles stand for the Pallas kernels, which are without an estimate in `cost`."""
    return dataclasses.replace(
        cost,
        cycles=cost.cycles + cycles,
        regions=cost.regions | {KERNEL: cycles},
        unestimated=tuple(part for part in cost.unestimated if part.kind != PALLAS),
    )


def make_slice_mesh(config: Config, target: Slice) -> jax.sharding.Mesh:
    """Returns the mesh of a config on the devices of a slice."""
    return make_mesh(config.mesh, list(target.devices))


def _as_does_not_fit(error: jax.errors.JaxRuntimeError) -> DoesNotFit | None:
    """Converts the compiler's error about a program that does not fit; returns None for any other error."""
    # the error contains: HBM … (17.50G) exceeds available HBM (15.75G)
    match = re.search(r"HBM.*\(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)", str(error))
    if not match:
        return None
    needed, available = (float(match[n]) * 2 ** (10 * " KMGT".index(match[n + 1])) for n in (1, 3))
    return DoesNotFit(needed, available)
