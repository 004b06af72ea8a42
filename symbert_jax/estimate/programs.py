"""The training and the validation step compiled ahead of time, for TPU slices that nobody has at hand.

The TPU compiler runs on any Linux CPU. It gets the real steps of the config, shapes instead of arrays, and the
topology of the slice. What it makes of them says what fits; its own estimate of cycles says how long a step takes.
"""

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from symbert_jax.batch import MlmBatch
from symbert_jax.config import Config
from symbert_jax.data.masking import max_predictions
from symbert_jax.estimate.cost import PALLAS, Cost, program_cost
from symbert_jax.estimate.slices import Slice
from symbert_jax.model import kernels
from symbert_jax.model.flops import attention_flops
from symbert_jax.sharding import make_mesh, problems, spec
from symbert_jax.train import state as states
from symbert_jax.train.step import make_train_step
from symbert_jax.train.validate import make_validation_step

# How often an array crosses a link of a chip, in its own bytes, when n chips exchange it around rings.
CROSSINGS = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1.0,
}

REGIONS = ("embedding", "attention", "feed_forward", "norm", "head", "loss", "optimizer")  # named scopes of the step


class DoesNotFit(Exception):
    """The compiler's refusal: bytes of HBM that a program needs on each chip, and bytes that there are."""

    def __init__(self, needed: float, available: float):
        super().__init__(f"{needed:.0f} of {available:.0f} bytes")
        self.needed, self.available = needed, available


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled step on one chip; the seconds add up to `seconds` as if nothing overlapped."""

    memory: float  # bytes of HBM at the peak, arguments included
    cost: Cost
    cycle_seconds: float  # the compiler's estimate
    roofline_seconds: float  # of what it does not estimate
    network_seconds: float
    seconds: float
    least_seconds: dict[str, float]  # what compute, memory and network each need alone


@functools.cache  # the search for a batch ends with a program that the report wants again
def compile_train(config: Config, target: Slice) -> Program:
    passes = 3 if config.model.remat == "none" else 4  # no policy keeps what the kernel made
    return _compile(config, target, make_train_step(config), lambda state: state, passes)


def compile_validation(config: Config, target: Slice) -> Program:
    return _compile(config, target, make_validation_step(config), lambda state: state.params, 1)


def _compile(config: Config, target: Slice, step: Any, first: Callable[[states.State], Any], passes: int) -> Program:
    """Compiles a jitted step of (what `first` takes of the state, batch), and adds up its cost.

    passes: how often the step makes the products of a forward pass; of splash's own, which states no FLOPs, too.
    """
    mesh = mesh_of(config, target)
    kernels.check(config.model, mesh.abstract_mesh.abstract_device)
    for problem in problems(config, mesh):
        raise problem
    with jax.set_mesh(mesh):
        lowered = step.lower(first(states.abstract(config)), _abstract_batch(config))
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        raise _refusal(error) or error from None
    chip, memory = target.chip, compiled.memory_analysis()
    cost = program_cost(compiled.as_text() or "", mesh.size, REGIONS)
    cycles = cost.cycles / chip.clock
    kernel = passes * attention_flops(config.model, config.data.batch_size) / mesh.size
    works = [(part, kernel if part.kind == PALLAS else part.flops) for part in cost.unestimated]
    roofline = sum(max(flops / chip.peak, part.bytes / chip.bandwidth) for part, flops in works)
    products = cost.flops + sum(flops for part, flops in works if part.kind == PALLAS)
    crossed = sum(CROSSINGS[part.kind](part.group) * part.bytes for part in cost.collectives)
    network = crossed / chip.network(target.axes) if crossed else 0.0
    least = {"compute": products / chip.peak, "memory": cost.bytes / chip.bandwidth, "network": network}
    peak = float(memory.peak_memory_in_bytes)
    return Program(peak, cost, cycles, roofline, network, cycles + roofline + network, least)


def mesh_of(config: Config, target: Slice) -> jax.sharding.Mesh:
    return make_mesh(config.mesh, list(target.devices))


def _refusal(error: jax.errors.JaxRuntimeError) -> DoesNotFit | None:
    found = re.search(r"HBM.*\(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)", str(error))
    if not found:
        return None
    needed, available = (float(found[n]) * 2 ** (10 * " KMGT".index(found[n + 1])) for n in (1, 3))
    return DoesNotFit(needed, available)


def _abstract_batch(config: Config) -> MlmBatch:
    """Shape, type and sharding of a batch on the current mesh, as `put_batch` makes it."""
    sharding = jax.NamedSharding(jax.sharding.get_mesh(), spec("B"))

    def rows(columns: int, dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((config.data.batch_size, columns), dtype, sharding=sharding)

    length, masked = config.model.length, max_predictions(config.model.length, config.data.mask_rate)
    batch = rows(length, jnp.int32), rows(masked, jnp.int32), rows(masked, jnp.int32), rows(masked, jnp.float32)
    return MlmBatch(*batch)  # type: ignore[arg-type]
