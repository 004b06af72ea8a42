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


def _flops(module: Module, scope: Computation, instruction: Instruction) -> float:
    match instruction.op:
        case "convolution":  # every matrix product is one on a TPU
            return _convolution_flops(scope, instruction)
        case "fusion":
            inner = module.fused(instruction)
            return sum(_flops(module, inner, part) for part in inner.values())
        case "custom-call":
            stated = re.search(r'"cost_estimate":\{"flops":"(\d+)"', instruction.text)
            return float(stated[1]) if stated else 0.0
    return 0.0


def _bytes(module: Module, scope: Computation, instruction: Instruction) -> float:
    """Bytes of HBM read and written; a fusion that takes a slice of an array reads the slice alone."""
    op = instruction.op
    if op in _FREE or op.endswith("-start") or _is_free_call(instruction):
        return 0.0
    if op.endswith("-done"):  # an asynchronous copy: what arrives was read and is written, if in HBM
        source = scope[scope[instruction.operands[0]].operands[0]]
        in_hbm = (size(source.shape, hbm=True) > 0) + (size(instruction.shape, hbm=True) > 0)
        return in_hbm * size(instruction.shape)
    if op == "fusion":
        inner = module.fused(instruction)
        read = sum(
            _read(module, inner, place, size(scope[name].shape, hbm=True))
            for place, name in enumerate(instruction.operands)
        )
        return read + _written(module, inner, instruction.shape)
    if op == "dynamic-update-slice":  # in place
        return 2 * size(scope[instruction.operands[1]].shape, hbm=True)
    if op in ("dynamic-slice", "slice", "gather"):
        return 2 * size(instruction.shape, hbm=True)
    touched = [instruction.shape, *(scope[name].shape for name in instruction.operands)]
    return sum(size(shape, hbm=True) for shape in touched)


def _read(module: Module, scope: Computation, place: int, whole: float) -> float:
    """Bytes that a fusion reads of its parameter `place`, which has `whole` bytes in HBM."""
    if not whole:
        return 0.0
    parameter = next(i for i in scope.values() if i.op == "parameter" and i.text.startswith(f"{place})"))
    return min(whole, _used(module, scope, parameter.name, whole))


def _used(module: Module, scope: Computation, name: str, whole: float) -> float:
    """The same of array `name` inside a fusion: the slices taken, or `whole`."""
    total = 0.0
    for user in scope.values():
        for place in (i for i, operand in enumerate(user.operands) if operand == name):
            match user.op:
                case "dynamic-slice" | "slice" | "gather" if place == 0:
                    total += size(user.shape)
                case "dynamic-update-slice" if place == 0:
                    pass  # what stays as it is, is not read
                case "bitcast":
                    total += _used(module, scope, user.name, whole)
                case "fusion":
                    total += _read(module, module.fused(user), place, whole)
                case _:
                    return whole
    return total


def _written(module: Module, scope: Computation, shape: str) -> float:
    """Bytes that a fusion of result `shape` writes to HBM: of an update in place, the update."""
    root = list(scope.values())[-1]
    shapes = arrays(shape)
    roots = [scope[name] for name in root.operands] if root.op == "tuple" else [root]
    if len(roots) != len(shapes):
        return size(shape, hbm=True)
    return sum(
        min(size(part, hbm=True), _updated(module, scope, root)) for part, root in zip(shapes, roots, strict=True)
    )


def _updated(module: Module, scope: Computation, root: Instruction) -> float:
    """Bytes of the update that `root` makes in place, infinite where it makes an array anew."""
    match root.op:
        case "dynamic-update-slice":
            return size(scope[root.operands[1]].shape)
        case "bitcast":
            return _updated(module, scope, scope[root.operands[0]])
        case "fusion":
            inner = module.fused(root)
            return _updated(module, inner, list(inner.values())[-1])
    return math.inf


def _collectives(
    module: Module, scope: Computation, instruction: Instruction, devices: int
) -> Iterator[tuple[str, str, int, float]]:
    """(channel, kind, group, bytes) of what an instruction exchanges.

    A TPU hides one exchange in several fusions, which share its channel, and scatters a sum inside one.
    """
    kind = instruction.op.removesuffix("-done")
    if inner := module.computations.get(instruction.called("calls")):
        scatters = list(inner.values())[-1].op == "dynamic-slice"
        for part in inner.values():
            for channel, kind, group, whole in _collectives(module, inner, part, devices):
                yield channel, "reduce-scatter" if scatters and kind == "all-reduce" else kind, group, whole
    elif kind in COLLECTIVES:
        start = scope[instruction.operands[0]] if instruction.op.endswith("-done") else instruction
        group = _group(start.text) or devices
        number = re.search(r"channel_id=(\d+)", start.text)
        whole = size(instruction.shape) * (group if kind == "reduce-scatter" else 1)
        yield number[1] if number else start.name, kind, group, whole


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


def _group(text: str) -> int:
    """How many devices each group of a collective has; 0 where all are one group."""
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", text):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(int(part or sizes[axis]) for axis, part in re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh[2]))
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]", text):
        return int(iota[1])
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", text)
    return listed[1].count(",") + 1 if listed else 0


def _convolution_flops(scope: Computation, instruction: Instruction) -> float:
    """2 a multiply-add, those that meet padding or the holes of a dilation left out.

    A TPU program writes a batch dimension as a spatial one whose window meets one element at a time.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.text)
    assert labels, instruction.text
    shapes = [scope[instruction.operands[0]].shape, scope[instruction.operands[1]].shape, instruction.shape]
    left, right, out = (
        dict(zip(names, dims(shape), strict=True)) for names, shape in zip(labels.groups(), shapes, strict=True)
    )
    window = re.search(r"window=\{([^}]*)\}", instruction.text)
    fields = dict(field.split("=") for field in window[1].split()) if window else {}
    pairs = 1
    for axis in range(len(left) - 2):
        ours = {name: value.split("x")[axis] for name, value in fields.items()}
        pad = int(ours.get("pad", "0_0").split("_")[0])
        stride, holes = int(ours.get("stride", 1)), int(ours.get("lhs_dilate", 1))
        spread, extent = int(ours.get("rhs_dilate", 1)), int(ours.get("size", 1))
        end = (left[str(axis)] - 1) * holes
        max_predictions = (o * stride + w * spread - pad for o in range(out[str(axis)]) for w in range(extent))
        pairs *= sum(0 <= place <= end and place % holes == 0 for place in max_predictions)
    batches = re.search(r"batch_group_count=(\d+)", instruction.text)
    return 2.0 * left["b"] // int(batches[1] if batches else 1) * out["f"] * right["i"] * pairs
