"""The cost of a compiled program, read from the text of its optimised HLO: pure text in, numbers out.

XLA's own totals count the body of a loop once; here it counts as often as it runs. What a program costs is said
of one device: the text is one device's share.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
PALLAS = "Pallas kernel"

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^ +(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][a-z0-9-]*)\((.*)$")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
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
    """What one device does in one run of a program."""

    cycles: int  # the compiler's own estimates, summed
    regions: dict[str, int]  # the same by named region of the source; "other" is in none
    flops: float  # of matrix products, and of kernels that state theirs
    bytes: float  # read from and written to HBM
    collectives: tuple[Collective, ...]
    unestimated: tuple[Unestimated, ...]  # not in `cycles`
    unknown_loops: int  # loops whose number of turns the text does not tell: counted once


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    shape: str
    op: str
    operands: tuple[str, ...]
    text: str  # all that follows the name of the operation

    def called(self, attribute: str) -> str:
        """The computation named by `body=`, `calls=` or the like; empty where there is none."""
        found = re.search(rf"\b{attribute}=%?([\w.-]+)", self.text)
        return found[1] if found else ""


_Computation = dict[str, _Instruction]  # by name, in order; the last is the root


def cost(text: str, devices: int, regions: Sequence[str] = ()) -> Cost:
    """The cost of the program `text`, whose collectives span `devices` where they name no groups.

    regions: names of `jax.named_scope`; what is fused over several is booked where XLA says that it came from.
    """
    return _Program(text).cost(devices, regions)


class _Program:
    def __init__(self, text: str):
        self.computations: dict[str, _Computation] = {}
        self.entry, name, lines = "", "", list[str]()

        def finish() -> None:
            if lines and (match := _INSTRUCTION.match(lines[0])):
                rest = "\n".join([match[4], *lines[1:]])
                operands = tuple(re.findall(r"%([\w.-]+)", rest.split("), ")[0]))
                self.computations[name][match[1]] = _Instruction(match[1], match[2], match[3], operands, rest)
            lines.clear()

        for line in text.splitlines():
            if header := _COMPUTATION.match(line):
                finish()
                name = header[2]
                self.computations[name] = {}
                self.entry = name if header[1] else self.entry
            elif name and _INSTRUCTION.match(line):
                finish()
                lines.append(line)
            elif lines:  # the config of a Pallas kernel has lines of its own, some of them "}"
                lines.append(line)
        finish()

    def cost(self, devices: int, regions: Sequence[str]) -> Cost:
        by_region = dict.fromkeys((*regions, "other"), 0)
        unknown_loops = 0
        flops, moved = 0.0, 0.0
        exchanged: dict[str, Collective] = {}  # by channel
        unestimated: list[Unestimated] = []
        for scope, instruction, times in self._runs(self.entry, 1):
            unknown_loops += instruction.op == "while" and self._turns(instruction) is None
            exchanges = list(self._collectives(scope, instruction, devices))
            for channel, kind, group, size in exchanges:
                exchanged[channel] = Collective(kind, group, times, times * size)
            work, traffic = times * self._flops(scope, instruction), times * self._bytes(scope, instruction)
            flops += work
            moved += traffic
            if estimate := re.search(r'"estimated_cycles":"(\d+)"', instruction.text):
                by_region[_region(instruction, regions)] += times * int(estimate[1])
            elif not exchanges and (kind := _unestimated(instruction)):
                unestimated.append(Unestimated(kind, times, work, traffic))
        cycles = sum(by_region.values())
        return Cost(cycles, by_region, flops, moved, _sum(exchanged.values(), 2), _sum(unestimated, 1), unknown_loops)

    def _runs(self, name: str, times: int) -> Iterator[tuple[_Computation, _Instruction, int]]:
        """Every instruction that `name` schedules, itself or in what it calls, and how often it runs."""
        scope = self.computations[name]
        for instruction in scope.values():
            yield scope, instruction, times
            match instruction.op:
                case "while":
                    turns = self._turns(instruction) or 1
                    yield from self._runs(instruction.called("body"), times * turns)
                case "call":
                    yield from self._runs(instruction.called("to_apply"), times)
                case "conditional":  # at most: every branch
                    for branch in re.findall(r"%([\w.-]+)", instruction.text.partition("branch_computations=")[2]):
                        if branch in self.computations:
                            yield from self._runs(branch, times)

    def _turns(self, loop: _Instruction) -> int | None:
        """How often a loop runs: stated by XLA, or the constant that its condition compares the counter with."""
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.text):
            return int(known[1])
        condition = self.computations[loop.called("condition")]
        root = list(condition.values())[-1]
        limits = [i.text for i in condition.values() if i.op == "constant" and i.shape.startswith(("s32[]", "u32[]"))]
        if len(limits) != 1 or (root.op == "compare" and "direction=LT" not in root.text):
            return None
        return int(limits[0].partition(")")[0])

    def _flops(self, scope: _Computation, instruction: _Instruction) -> float:
        match instruction.op:
            case "convolution":  # every matrix product is one on a TPU
                return _convolution_flops(scope, instruction)
            case "fusion":
                inner = self.computations[instruction.called("calls")]
                return sum(self._flops(inner, part) for part in inner.values())
            case "custom-call":
                stated = re.search(r'"cost_estimate":\{"flops":"(\d+)"', instruction.text)
                return float(stated[1]) if stated else 0.0
        return 0.0

    def _bytes(self, scope: _Computation, instruction: _Instruction) -> float:
        """Bytes of HBM read and written; a fusion that takes a slice of an array reads the slice alone."""
        op = instruction.op
        if op in _FREE or op.endswith("-start") or _is_free_call(instruction):
            return 0.0
        if op.endswith("-done"):  # an asynchronous copy: what arrives was read and is written, if in HBM
            source = scope[scope[instruction.operands[0]].operands[0]]
            in_hbm = (_size(source.shape, hbm=True) > 0) + (_size(instruction.shape, hbm=True) > 0)
            return in_hbm * _size(instruction.shape)
        if op == "fusion":
            inner = self.computations[instruction.called("calls")]
            read = sum(
                self._read(inner, place, _size(scope[name].shape, hbm=True))
                for place, name in enumerate(instruction.operands)
            )
            return read + self._written(inner, instruction.shape)
        if op == "dynamic-update-slice":  # in place
            return 2 * _size(scope[instruction.operands[1]].shape, hbm=True)
        if op in ("dynamic-slice", "slice", "gather"):
            return 2 * _size(instruction.shape, hbm=True)
        touched = [instruction.shape, *(scope[name].shape for name in instruction.operands)]
        return sum(_size(shape, hbm=True) for shape in touched)

    def _read(self, scope: _Computation, place: int, whole: float) -> float:
        """Bytes that a fusion reads of its parameter `place`, which has `whole` bytes in HBM."""
        if not whole:
            return 0.0
        parameter = next(i for i in scope.values() if i.op == "parameter" and i.text.startswith(f"{place})"))
        return min(whole, self._used(scope, parameter.name, whole))

    def _used(self, scope: _Computation, name: str, whole: float) -> float:
        """The same of array `name` inside a fusion: the slices taken, or `whole`."""
        total = 0.0
        for user in scope.values():
            for place in (i for i, operand in enumerate(user.operands) if operand == name):
                match user.op:
                    case "dynamic-slice" | "slice" | "gather" if place == 0:
                        total += _size(user.shape)
                    case "dynamic-update-slice" if place == 0:
                        pass  # what stays as it is, is not read
                    case "bitcast":
                        total += self._used(scope, user.name, whole)
                    case "fusion":
                        total += self._read(self.computations[user.called("calls")], place, whole)
                    case _:
                        return whole
        return total

    def _written(self, scope: _Computation, shape: str) -> float:
        """Bytes that a fusion of result `shape` writes to HBM: of an update in place, the update."""
        root = list(scope.values())[-1]
        shapes = [match[0] for match in _ARRAY.finditer(shape)]
        roots = [scope[name] for name in root.operands] if root.op == "tuple" else [root]
        if len(roots) != len(shapes):
            return _size(shape, hbm=True)
        return sum(
            min(_size(part, hbm=True), self._updated(scope, root)) for part, root in zip(shapes, roots, strict=True)
        )

    def _updated(self, scope: _Computation, root: _Instruction) -> float:
        """Bytes of the update that `root` makes in place, infinite where it makes an array anew."""
        match root.op:
            case "dynamic-update-slice":
                return _size(scope[root.operands[1]].shape)
            case "bitcast":
                return self._updated(scope, scope[root.operands[0]])
            case "fusion":
                inner = self.computations[root.called("calls")]
                return self._updated(inner, list(inner.values())[-1])
        return math.inf

    def _collectives(
        self, scope: _Computation, instruction: _Instruction, devices: int
    ) -> Iterator[tuple[str, str, int, float]]:
        """(channel, kind, group, bytes) of what an instruction exchanges.

        A TPU hides one exchange in several fusions, which share its channel, and scatters a sum inside one.
        """
        kind = instruction.op.removesuffix("-done")
        if inner := self.computations.get(instruction.called("calls")):
            scatters = list(inner.values())[-1].op == "dynamic-slice"
            for part in inner.values():
                for channel, kind, group, size in self._collectives(inner, part, devices):
                    yield channel, "reduce-scatter" if scatters and kind == "all-reduce" else kind, group, size
        elif kind in COLLECTIVES:
            start = scope[instruction.operands[0]] if instruction.op.endswith("-done") else instruction
            group = _group(start.text) or devices
            number = re.search(r"channel_id=(\d+)", start.text)
            size = _size(instruction.shape) * (group if kind == "reduce-scatter" else 1)
            yield number[1] if number else start.name, kind, group, size


def _sum(parts: Iterable[Part], fields: int) -> tuple[Part, ...]:
    """Parts that share their first `fields` fields as one, with the sums of the others, in order."""
    totals: dict[tuple, list[float]] = {}
    for part in parts:
        values = dataclasses.astuple(part)
        total = totals.setdefault(values[:fields], [0] * (len(values) - fields))
        totals[values[:fields]] = [sum(pair) for pair in zip(total, values[fields:], strict=True)]
        kind = type(part)
    return tuple(kind(*key, *total) for key, total in sorted(totals.items()))


def _region(instruction: _Instruction, regions: Sequence[str]) -> str:
    """The innermost of `regions` that the instruction came from."""
    source = re.search(r'op_name="([^"]*)"', instruction.text)
    scopes = re.findall(r"\w+", source[1]) if source else []
    return next((scope for scope in reversed(scopes) if scope in regions), "other")


def _unestimated(instruction: _Instruction) -> str:
    """The kind under which work without an estimate is told, empty for what is no work of the core's."""
    if instruction.op not in _WORK or _is_free_call(instruction):
        return ""
    if instruction.op == "custom-call":
        target = re.search(r'custom_call_target="([^"]*)"', instruction.text)
        return PALLAS if target and target[1] == "tpu_custom_call" else f"custom call {target and target[1]}"
    found = re.search(r"(gather|scatter)", instruction.name)
    return found[1] if found else instruction.op


def _is_free_call(instruction: _Instruction) -> bool:
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


def _size(shape: str, hbm: bool = False) -> float:
    """Bytes of an array, or of all arrays of a tuple; with `hbm` of those that live there."""
    total = 0.0
    for dtype, dims, layout in _ARRAY.findall(shape):
        if not (hbm and re.search(r"S\([1-9]", layout)):
            bits = 8 if dtype == "pred" else int(re.search(r"\d+|$", dtype)[0] or 0)  # type: ignore[index]
            total += math.prod(_dims(dims)) * bits / 8
    return total


def _dims(text: str) -> list[int]:
    return [int(dim) for dim in text.split(",") if dim]


def _convolution_flops(scope: _Computation, instruction: _Instruction) -> float:
    """2 a multiply-add, those that meet padding or the holes of a dilation left out.

    A TPU program writes a batch dimension as a spatial one whose window meets one element at a time.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.text)
    assert labels, instruction.text
    shapes = [scope[instruction.operands[0]].shape, scope[instruction.operands[1]].shape, instruction.shape]
    left, right, out = (
        dict(zip(names, _dims(_ARRAY.search(shape)[2]), strict=True))  # type: ignore[index]
        for names, shape in zip(labels.groups(), shapes, strict=True)
    )
    window = re.search(r"window=\{([^}]*)\}", instruction.text)
    fields = dict(field.split("=") for field in window[1].split()) if window else {}
    pairs = 1
    for axis in range(len(left) - 2):
        ours = {name: value.split("x")[axis] for name, value in fields.items()}
        pad = int(ours.get("pad", "0_0").split("_")[0])
        stride, holes = int(ours.get("stride", 1)), int(ours.get("lhs_dilate", 1))
        spread, size = int(ours.get("rhs_dilate", 1)), int(ours.get("size", 1))
        end = (left[str(axis)] - 1) * holes
        places = (o * stride + w * spread - pad for o in range(out[str(axis)]) for w in range(size))
        pairs *= sum(0 <= place <= end and place % holes == 0 for place in places)
    batches = re.search(r"batch_group_count=(\d+)", instruction.text)
    return 2.0 * left["b"] // int(batches[1] if batches else 1) * out["f"] * right["i"] * pairs
