"""The cost of a compiled program on one device, from the text of its optimized HLO.

XLA's own totals count the body of a loop once; this cost counts it once per iteration.
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

from symbert_jax.estimate.collectives import exchanges
from symbert_jax.estimate.flops import instruction_flops
from symbert_jax.estimate.hlo import Instruction, Module
from symbert_jax.estimate.traffic import hbm_bytes

PALLAS = "Pallas kernel"

# `Cost.unestimated` lists these operations if the compiler estimates no cycles for them. All others without an estimate
# take next to no time, except collectives; `Cost.collectives` lists those.
_WORK = ("fusion", "custom-call", "sort", "gather", "scatter", "convolution", "rng-bit-generator")


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind over groups of `group` devices; `bytes` is the sum of `Exchange.bytes`."""

    kind: str
    group: int
    count: int  # executions
    bytes: float


@dataclasses.dataclass(frozen=True)
class Unestimated:
    """All work of one kind without a cycle estimate, for example gathers, sorts or Pallas kernels."""

    kind: str
    count: int  # executions
    flops: float
    bytes: float


Part = TypeVar("Part", Collective, Unestimated)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one device does in one execution of a program."""

    cycles: int  # sum of the compiler's estimates
    regions: dict[str, int]  # cycles by named region of the source, "other" for the rest
    flops: float  # of matrix products, and of kernels that state their FLOPs
    bytes: float  # read from and written to HBM
    collectives: tuple[Collective, ...]
    unestimated: tuple[Unestimated, ...]  # work that is not in `cycles`
    unknown_loops: int  # the number of loops of unknown trip count, whose bodies count once


def program_cost(text: str, num_devices: int, regions: Sequence[str] = ()) -> Cost:
    """Returns the cost of the program `text`. A collective spans all devices unless it names groups.

    regions: names of `jax.named_scope`. An instruction counts in the innermost of them around its source; for a fusion,
      XLA names one operation as the source.
    """
    module = Module(text)
    cycles_by_region = dict.fromkeys((*regions, "other"), 0)
    unknown_loops = 0
    total_flops, total_bytes = 0.0, 0.0
    collectives: dict[str, Collective] = {}  # by channel, so that each counts once
    unestimated: list[Unestimated] = []
    for computation, instruction, count in module.executed():
        unknown_loops += instruction.op == "while" and module.trip_count(instruction) is None
        exchanged = list(exchanges(module, computation, instruction, num_devices))
        for exchange in exchanged:
            collectives[exchange.channel] = Collective(exchange.kind, exchange.group, count, count * exchange.bytes)
        flops = count * instruction_flops(module, computation, instruction)
        bytes_moved = count * hbm_bytes(module, computation, instruction)
        total_flops += flops
        total_bytes += bytes_moved
        if estimate := re.search(r'"estimated_cycles":"(\d+)"', instruction.text):
            cycles_by_region[_region(instruction, regions)] += count * int(estimate[1])
        elif not exchanged and (kind := _kind_of_work(instruction)):
            unestimated.append(Unestimated(kind, count, flops, bytes_moved))
    return Cost(
        cycles=sum(cycles_by_region.values()),
        regions=cycles_by_region,
        flops=total_flops,
        bytes=total_bytes,
        collectives=_totals(collectives.values(), num_keys=2),
        unestimated=_totals(unestimated, num_keys=1),
        unknown_loops=unknown_loops,
    )


def _totals(parts: Iterable[Part], num_keys: int) -> tuple[Part, ...]:
    """Adds up the parts whose first `num_keys` fields are equal; returns the sums, sorted by these fields."""
    totals: dict[tuple, list[float]] = {}
    for part in parts:
        values = dataclasses.astuple(part)
        total = totals.setdefault(values[:num_keys], [0] * (len(values) - num_keys))
        totals[values[:num_keys]] = [sum(pair) for pair in zip(total, values[num_keys:], strict=True)]
        cls = type(part)
    return tuple(cls(*key, *total) for key, total in sorted(totals.items()))


def _region(instruction: Instruction, regions: Sequence[str]) -> str:
    """Returns the innermost of `regions` in the instruction's source, or "other" if it is in none."""
    source = re.search(r'op_name="([^"]*)"', instruction.text)
    scopes = re.findall(r"\w+", source[1]) if source else []
    return next((scope for scope in reversed(scopes) if scope in regions), "other")


def _kind_of_work(instruction: Instruction) -> str:
    """Returns the kind of work of an instruction without an estimate; empty if it takes next to no time."""
    if instruction.op not in _WORK or instruction.is_noop_call:
        return ""
    if instruction.op == "custom-call":
        target = re.search(r'custom_call_target="([^"]*)"', instruction.text)
        return PALLAS if target and target[1] == "tpu_custom_call" else f"custom call {target and target[1]}"
    # XLA names a fusion after operations in it, for example %multiply_add_fusion.5
    match = re.search(r"(gather|scatter)", instruction.name)
    return match[1] if match else instruction.op
