"""The cycles of the Pallas kernels of attention, for which the TPU compiler has no estimate.

A core executes one bundle of instructions per cycle. So the cycles of a kernel are the bundles of its schedule times
its grid steps. Waits for memory are not included.
"""

import collections
import re

import jax

from symbert_jax.config import Config
from symbert_jax.estimate.schedules import find_schedules
from symbert_jax.estimate.slices import Slice
from symbert_jax.model import kernels
from symbert_jax.model.attention import find_variant
from symbert_jax.model.parameters import sizes
from symbert_jax.model.short.plan import Plan
from symbert_jax.model.windows import layer_windows, num_pairs
from symbert_jax.sharding import device

SHORTEST_BRANCH = 60  # bundles; the shorter regions of a schedule are not branches of a kernel


def attention_cycles(config: Config, target: Slice, mesh: jax.sharding.Mesh, is_training: bool) -> int:
    """Returns the cycles of one core in the Pallas kernels of attention of all layers, in one step.

    mesh: that of `config` on the devices of `target`.
    is_training: whether the step is that of training, with dropout and a backward pass, otherwise that of validation.
    """
    model, data = config.model, config.data
    with jax.set_mesh(mesh):
        kernel = kernels.choose(model, device(), model.length, model.length)
    heads = model.heads // mesh.shape["model"]
    has_segments = not data.cross_document or data.packing == "best_fit"
    # no remat policy keeps the output of an attention kernel, so with remat its forward pass runs again
    forward_passes = 2 if is_training and model.remat != "none" else 1
    total = 0
    for window, num_layers in collections.Counter(layer_windows(model)).items():
        schedules = find_schedules(model, target.name, kernel, heads, window, has_segments, is_training)
        plan = Plan(
            rows=data.batch_size // mesh.shape["data"],
            heads=heads,
            length=model.length,
            device_cores=target.chip.cores,
            query_width=sizes(model)["Q"],
            value_width=sizes(model)["H"],
            dropout_rate=model.attention_dropout if is_training else 0.0,
            window=window if window // 2 < model.length - 1 else 0,
        )
        if kernel == "splash":
            forward, *backward = (num_bundles(text) * _splash_steps(plan) for text in schedules)
        elif find_variant(model).is_symmetric and plan.has_symmetric_form:
            groups = plan.symmetric_groups // plan.device_cores
            forward, *backward = (_symmetric_bundles(plan, text) * groups for text in schedules)
        else:  # the forward kernel of `short` has an additional step
            forward, *backward = (
                num_bundles(text) * (plan.steps + step) for text, step in zip(schedules, (1, 0), strict=False)
            )
        total += num_layers * (forward_passes * forward + sum(backward))
    return total


def num_bundles(schedule: str) -> int:
    """Returns the number of bundles in the text of a schedule."""
    return len(re.findall(r"^ *0x[0-9a-f]+ ", schedule, re.MULTILINE))


def _splash_steps(plan: Plan) -> int:
    """Returns the blocks of splash on one core in which a token sees another one."""
    size = kernels.block_size(plan.length, plan.window)
    reach = -(-(plan.window // 2) // size)  # the blocks on each side of a block that its windows reach
    return num_pairs(2 * reach, plan.length // size) * plan.rows * plan.heads // plan.device_cores


def _symmetric_bundles(plan: Plan, schedule: str) -> int:
    """Returns the bundles that all grid steps of a group of heads execute in a kernel of the symmetric form.

    With several blocks, a grid step has four branches: for the first pair of blocks, for a block and itself, for two
    blocks, and for the last pair.
    """
    count = plan.symmetric_blocks
    if count == 1:
        return num_bundles(schedule)
    starts, sizes = dict[str, int](), dict[str, int]()  # of all regions, in order
    for line in re.findall(r"^ *0x.*", schedule, re.MULTILINE):
        address = int(line.split()[0].partition(":")[0].removesuffix("PF"), 16)
        for kind, region in re.findall(r"(Start|End) region (\d+)", line):
            if kind == "Start":
                starts[region] = address
            elif region in starts:
                sizes[region] = address + 1 - starts[region]
    ends = {region: starts[region] + size for region, size in sizes.items()}
    long = [region for region in sizes if sizes[region] > SHORTEST_BRANCH]
    leaves = [a for a in long if not any(b != a and starts[a] <= starts[b] and ends[b] <= ends[a] for b in long)]
    branches = [sizes[region] for region in sorted(leaves, key=starts.__getitem__)]
    assert len(branches) == 4, f"expected four branches, found {branches}"
    first, same, different, last = branches
    rest = num_bundles(schedule) - sum(branches)
    return first + count * same + count * (count - 1) // 2 * different + last + plan.symmetric_pairs * rest
