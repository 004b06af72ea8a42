"""The cost of a compiled program, read from the text of its optimised HLO: pure text in, numbers out.

XLA's own totals count the body of a loop once; here it counts as often as it runs. What a program costs is said
of one device.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from symbert_jax.estimate.hlo import Computation, Instruction, Module, arrays, dims, size

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
PALLAS = "Pallas kernel"

# What costs nothing by itself: names for memory, bookkeeping, and control flow, whose bodies count.
_FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "conditional", "call"}
_FREE |= {"after-all", "partition-id", "replica-id", "iota", "broadcast", "opt-barrier"}
# What has no estimate and is work all the same; the rest without one is arithmetic on scalars.
_WORK = ("fusion", "custom-call", "sort", "gather", "scatter", "convolution", "rng-bit-generator")
_FREE_CALLS = ("AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound", "GatherScatterIndicesBitpacked")


@dataclasses.dataclass(frozen=True)
class Collective:
    """All exchanges of one kind over groups of `group` devices; bytes of the whole array, as each group sees it."""

    kind: str
    group: int
    count: int
    bytes: float


@dataclasses.dataclass(frozen=True)
class Unestimated:
    """All work of one kind without a cycle estimate: gathers, scatters, sorts, Pallas kernels."""

    kind: str
    count: int
    flops: float
    bytes: float


Part = TypeVar("Part", Collective, Unestimated)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one device does in one run of a module."""

    cycles: int  # the compiler's own estimates, summed
    regions: dict[str, int]  # the same by named region of the source; "other" is in none
    flops: float  # of matrix products, and of kernels that state theirs
    bytes: float  # read from and written to HBM
    collectives: tuple[Collective, ...]
    unestimated: tuple[Unestimated, ...]  # not in `cycles`
    unknown_loops: int  # loops whose number of turns the text does not tell: counted once


def program_cost(text: str, devices: int, regions: Sequence[str] = ()) -> Cost:
    """The cost of the program `text`, whose collectives span `devices` where they name no groups.

    regions: names of `jax.named_scope`; what is fused over several is booked where XLA says that it came from.
    """
    module = Module(text)
    by_region = dict.fromkeys((*regions, "other"), 0)
    unknown_loops = 0
    flops, moved = 0.0, 0.0
    exchanged: dict[str, Collective] = {}  # by channel
    unestimated: list[Unestimated] = []
    for scope, instruction, times in module.runs():
        unknown_loops += instruction.op == "while" and module.turns(instruction) is None
        exchanges = list(_collectives(module, scope, instruction, devices))
        for channel, kind, group, whole in exchanges:
            exchanged[channel] = Collective(kind, group, times, times * whole)
        work, traffic = times * _flops(module, scope, instruction), times * _bytes(module, scope, instruction)
        flops += work
        moved += traffic
        if estimate := re.search(r'"estimated_cycles":"(\d+)"', instruction.text):
            by_region[_region(instruction, regions)] += times * int(estimate[1])
        elif not exchanges and (kind := _unestimated(instruction)):
            unestimated.append(Unestimated(kind, times, work, traffic))
    cycles = sum(by_region.values())
    return Cost(cycles, by_region, flops, moved, _sum(exchanged.values(), 2), _sum(unestimated, 1), unknown_loops)


def _sum(parts: Iterable[Part], fields: int) -> tuple[Part, ...]:
    """Parts that share their first `fields` fields as one, with the sums of the others, in order."""
    totals: dict[tuple, list[float]] = {}
    for part in parts:
        values = dataclasses.astuple(part)
        total = totals.setdefault(values[:fields], [0] * (len(values) - fields))
        totals[values[:fields]] = [sum(pair) for pair in zip(total, values[fields:], strict=True)]
        kind = type(part)
    return tuple(kind(*key, *total) for key, total in sorted(totals.items()))


def _region(instruction: Instruction, regions: Sequence[str]) -> str:
    """The innermost of `regions` that the instruction came from."""
    source = re.search(r'op_name="([^"]*)"', instruction.text)
    scopes = re.findall(r"\w+", source[1]) if source else []
    return next((scope for scope in reversed(scopes) if scope in regions), "other")


def _unestimated(instruction: Instruction) -> str:
    """The kind under which work without an estimate is told, empty for what is no work of the core's."""
    if instruction.op not in _WORK or _is_free_call(instruction):
        return ""
    if instruction.op == "custom-call":
        target = re.search(r'custom_call_target="([^"]*)"', instruction.text)
        return PALLAS if target and target[1] == "tpu_custom_call" else f"custom call {target and target[1]}"
    found = re.search(r"(gather|scatter)", instruction.name)
    return found[1] if found else instruction.op


def _is_free_call(instruction: Instruction) -> bool:
    return instruction.op == "custom-call" and any(f'"{name}"' in instruction.text for name in _FREE_CALLS)


