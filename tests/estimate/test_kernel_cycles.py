"""Bundles of a schedule, and the grid steps of kernels."""

import numpy as np
import pytest

from symbert_jax.estimate import kernel_cycles
from symbert_jax.model import kernels
from symbert_jax.model.short.plan import Plan
from symbert_jax.model.windows import in_window


def test_bundles_are_the_lines_with_an_address() -> None:
    schedule = "// kernel\n\n  0x1   :  { %s1 = add }\n 0xa PF:  { %v2 = mul ;; %v3 = add }\n     comment 0x2\n"
    assert kernel_cycles.num_bundles(schedule) == 2


@pytest.mark.parametrize("window", [0, 2, 512, 1024, 1026, 2 * 4096])
def test_splash_computes_the_blocks_in_which_a_token_sees_another(window) -> None:
    length = 4096
    plan = Plan(rows=2, heads=3, length=length, device_cores=1, window=window)
    size = kernels.block_size(length, window)
    visible = np.asarray(in_window(window or 2 * length, length, length))
    blocks = visible.reshape(length // size, size, length // size, size).any(axis=(1, 3)).sum()
    assert kernel_cycles._splash_steps(plan) == 2 * 3 * blocks


def test_symmetric_form_counts_each_branch_as_often_as_it_runs() -> None:
    """A group with 2 blocks has 3 pairs, each a grid step, and 5 bundles that belong to no branch."""
    lines, address = [], 0
    for region, size in enumerate((100, 90, 80, 70)):  # of the four branches in their order
        edges = {0: f"// Start region {region}", size - 1: f"// End region {region}"}
        lines += [f"  {address + bundle:#x}   : {{ add }} {edges.get(bundle, '')}" for bundle in range(size)]
        address += size
    lines += [f"  {address + bundle:#x}   : {{ add }}" for bundle in range(5)]
    plan = Plan(rows=1, heads=1, length=2048, device_cores=1)
    assert plan.symmetric_blocks == 2
    assert kernel_cycles._symmetric_bundles(plan, "\n".join(lines)) == 100 + 2 * 90 + 80 + 70 + 3 * 5
