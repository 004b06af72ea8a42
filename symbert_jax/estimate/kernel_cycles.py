"""The cycles of the Pallas kernels of attention, for which the TPU compiler has no estimate.

A core executes one bundle of instructions per cycle. So the cycles of a kernel are the bundles of its schedule times
its grid steps, but for the branches of a step (`pl.when`), each of which only some steps take. Waits for memory are not
included.
"""

import collections
from collections.abc import Sequence

import jax

from symbert_jax.config import Config, ModelConfig
from symbert_jax.estimate.schedules import Schedule, find_schedules
from symbert_jax.estimate.slices import Slice
from symbert_jax.model import kernels
from symbert_jax.model.attention import find_variant
from symbert_jax.model.parameters import sizes
from symbert_jax.model.short.plan import Plan
from symbert_jax.model.windows import layer_windows, num_pairs
from symbert_jax.sharding import device


def attention_cycles(config: Config, target: Slice, mesh: jax.sharding.Mesh, is_training: bool) -> int:
    """Returns the cycles of one core in the Pallas kernels of attention of all layers, in one step.

    mesh: that of `config` on the devices of `target`.
    is_training: whether the step is that of training, with dropout and a backward pass, otherwise that of validation.

    Raises:
      UnknownSchedule: the compiler has not left a schedule, or it has other branches than the kernel.
    """
    model, data = config.model, config.data
    with jax.set_mesh(mesh):
        kernel = kernels.choose(model, device(), model.length, model.length)
    micro_batches = config.optim.accumulate if is_training else 1
    plan = Plan(
        rows=data.batch_size // mesh.shape["data"] // micro_batches,
        heads=model.heads // mesh.shape["model"],
        length=model.length,
        device_cores=target.chip.cores,
        query_width=sizes(model)["Q"],
        value_width=sizes(model)["H"],
        dropout_rate=model.attention_dropout if is_training else 0.0,
    )
    has_segments = not data.cross_document or data.packing == "best_fit"
    forward_passes, backward_passes = num_passes(model, is_training)
    total = 0
    for window, num_layers in collections.Counter(layer_windows(model)).items():
        schedules = find_schedules(model, target.name, kernel, plan.heads, window, has_segments, is_training)
        if kernel == "splash":
            cycles = _splash_cycles(plan, window, schedules)
        elif find_variant(model).is_symmetric and plan.with_window(window).has_symmetric_form:
            cycles = _symmetric_cycles(plan, schedules)
        else:
            cycles = _short_cycles(plan.with_window(window), schedules)
        forward, *backward = cycles
        total += micro_batches * num_layers * (forward_passes * forward + backward_passes * sum(backward))
    return total


def num_passes(model: ModelConfig, is_training: bool) -> tuple[int, int]:
    """Returns how often a step runs the forward and the backward kernel of a layer.

    No remat policy keeps the output of an attention kernel, so with remat the forward kernel runs again.
    """
    if not is_training:
        return 1, 0
    return (1 if model.remat == "none" else 2), 1


def _short_cycles(plan: Plan, schedules: Sequence[Schedule]) -> list[int]:
    """Returns the cycles of the forward kernel of `short`, and of the backward kernel if there is a schedule of it."""
    forward, *backward = schedules
    cycles = [forward.bundles * (plan.steps + 1)]  # one step more than there are blocks
    for schedule in backward:
        # the first block of a head clears the sums of a local layer, and the last one writes them
        branches = schedule.branches(1 + (plan.window > 0)) if plan.blocks > 1 else []
        rest = schedule.bundles - sum(branches)
        cycles.append(rest * plan.steps + sum(branches) * plan.steps // plan.blocks)
    return cycles


def _symmetric_cycles(plan: Plan, schedules: Sequence[Schedule]) -> list[int]:
    """Returns the cycles of the kernels of the symmetric form, whose steps compute pairs of blocks.

    A step has four branches: for the first pair, for a block and itself, for two blocks, and for the last pair.
    """
    count, cycles = plan.symmetric_blocks, []
    groups = -(-plan.symmetric_groups // plan.device_cores)
    for schedule in schedules:
        branches = schedule.branches(4) if count > 1 else [0] * 4
        first, same, different, last = branches
        rest = schedule.bundles - sum(branches)
        pairs = count * same + count * (count - 1) // 2 * different
        cycles.append(groups * (first + pairs + last + rest * plan.symmetric_pairs))
    return cycles


def _splash_cycles(plan: Plan, window: int, schedules: Sequence[Schedule]) -> list[int]:
    """Returns the cycles of the kernels of splash, whose steps compute a block of queries and one of keys.

    A step has three branches: for the first of a line of blocks, for blocks of which a token sees another, and for the
    last of the line. The forward kernel has no steps for blocks outside the windows.
    """
    size = kernels.block_size(plan.length, window)
    count = plan.length // size
    reach = -(-(window // 2) // size) if window else count  # the blocks on each side of a block that windows reach
    heads = -(-plan.rows * plan.heads // plan.device_cores)
    cycles = []
    for schedule, steps in zip(schedules, (min(2 * reach + 1, count), count), strict=False):  # of a line
        first, visible, last = schedule.branches(3) if count > 1 else (0, 0, 0)  # all steps of a single block are alike
        rest = schedule.bundles - first - visible - last
        line = first + last + rest * steps
        cycles.append(heads * (count * line + visible * num_pairs(2 * reach, count)))
    return cycles
