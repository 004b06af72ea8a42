"""The bundles of a schedule and its branches, and how often the grid steps of a kernel execute them."""

import itertools

import numpy as np
import pytest

from symbert_jax.estimate import kernel_cycles
from symbert_jax.estimate.schedules import Schedule, UnknownSchedule
from symbert_jax.model import kernels
from symbert_jax.model.short.plan import Plan
from symbert_jax.model.windows import in_window


def make_schedule(*branches: int, rest: int = 20) -> Schedule:
    """Returns a schedule with so many bundles in each branch, and `rest` others, at least 4 and one for each branch."""
    counter = itertools.count(10)
    bundles = ["{ load }", "{ sbr.rel (%p1) target = $region90 } /* Start region 2 */", "{ load }"]
    for size in branches:
        region = next(counter)
        bundles += [f"{{ %1 = sbr.rel (!%p2) target = $region{region} }}", *["{ add }"] * (size - 1)]
        bundles.append(f"{{ add }} /* Start/End empty region {region + 1000} */")
        bundles.append(f"{{ add }} /* End region 2 :: Start region {region} */")
    bundles += ["{ add }"] * (rest - 5 - 2 * len(branches))
    bundles += ["{ store } /* Start region 90 */", "{ sbr.rel (!%p3) target = $region2 }"]
    lines = [
        f"  {address:#x} {'PF' if address % 7 == 1 else '  '}: > {bundle}" for address, bundle in enumerate(bundles)
    ]
    return Schedule("\n".join(["// kernel", *lines, "comment 0x2"]))


def test_branches_are_the_jumps_inside_the_jump_over_a_step() -> None:
    schedule = make_schedule(30, 3, 12)
    assert schedule.bundles == 30 + 3 + 12 + 20 and schedule.branches(3) == [30, 3, 12]
    assert schedule.branches(2) == [30, 12]  # the shortest waits for a copy
    with pytest.raises(UnknownSchedule, match="a grid step with 3 branches instead of 4"):
        schedule.branches(4)


@pytest.mark.parametrize("window", [0, 2, 1024, 1026, 2 * 4096])
def test_splash_visits_the_blocks_in_which_a_token_sees_another(window: int) -> None:
    length = 4096
    plan = Plan(rows=2, heads=3, length=length, device_cores=1)
    size = kernels.block_size(length, window)
    near = np.asarray(in_window(window or 2 * length, length, length))
    visible = near.reshape(length // size, size, length // size, size).any(axis=(1, 3))  # [blocks of queries, of keys]
    first, body, last, rest = 30, 200, 40, 20
    found = kernel_cycles._splash_cycles(plan, window, [make_schedule(first, body, last)] * 2)
    for cycles, steps in zip(found, (visible.sum(1).max(), len(visible)), strict=True):
        assert cycles == 2 * 3 * (body * visible.sum() + len(visible) * (first + last + rest * steps))


def test_all_bundles_count_once_for_each_head_of_a_single_block() -> None:
    plan = Plan(rows=2, heads=3, length=512, device_cores=1)
    assert kernel_cycles._splash_cycles(plan, 0, [make_schedule(rest=50)]) == [2 * 3 * 50]


def test_symmetric_form_takes_each_branch_as_often_as_there_are_such_pairs() -> None:
    """Two blocks make three pairs. The last branch may be short."""
    plan = Plan(rows=1, heads=3, length=2048, device_cores=2)
    (cycles,) = kernel_cycles._symmetric_cycles(plan, [make_schedule(100, 90, 80, 7)])
    assert cycles == 2 * (100 + 2 * 90 + 80 + 7 + 3 * 20)  # two heads on the first core, one on the second


def test_last_block_of_a_head_alone_writes_the_gradients_of_keys() -> None:
    plan = Plan(rows=2, heads=3, length=2048, device_cores=1)  # four blocks
    forward, backward = kernel_cycles._short_cycles(plan, [make_schedule(rest=50), make_schedule(8, rest=100)])
    assert forward == (2 * 3 * 4 + 1) * 50 and backward == 2 * 3 * (4 * 100 + 8)
    _, backward = kernel_cycles._short_cycles(plan.with_window(128), [make_schedule(), make_schedule(16, 8, rest=100)])
    assert backward == 2 * 3 * (8 * 100 + 16 + 8)  # blocks of 256 queries
