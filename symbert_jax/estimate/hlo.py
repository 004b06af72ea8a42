"""Parses the text of an optimized XLA program into computations and instructions, with trip counts and shapes."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

# %body.1 (x: f32[4]) -> f32[4] {
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
# "  ROOT %sum.2 = f32[4]{0} add(%a, %b), metadata=...": name, shape, operation, rest
_INSTRUCTION = re.compile(r"^ +(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][a-z0-9-]*)\((.*)$")
# bf16[8,128]{1,0:T(8,128)S(1)}: type, dimensions, layout
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
# targets of custom calls that execute nothing
_NOOP_CALLS = ("AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound", "GatherScatterIndicesBitpacked")


@dataclass(frozen=True)
class Instruction:
    """One instruction: `%name = shape op(%operand, ...), attributes`."""

    name: str
    shape: str  # of an array or of a tuple of arrays
    op: str
    operands: tuple[str, ...]  # names of instructions
    text: str  # everything after `op(`

    def called(self, attribute: str) -> str:
        """Returns the name of the computation in an attribute such as `body=` or `calls=`; empty if it is missing."""
        match = re.search(rf"\b{attribute}=%?([\w.-]+)", self.text)
        return match[1] if match else ""

    @property
    def is_noop_call(self) -> bool:
        """Whether this is a custom call that executes nothing."""
        return self.op == "custom-call" and any(f'"{name}"' in self.text for name in _NOOP_CALLS)


Computation = dict[str, Instruction]  # instructions by name, in order; the last one is the root


class Module:
    """An HLO module: the program of one device."""

    def __init__(self, text: str):
        self.computations: dict[str, Computation] = {}
        self.entry, name, lines = "", "", list[str]()

        def finish_instruction() -> None:
            if lines and (match := _INSTRUCTION.match(lines[0])):
                rest = "\n".join([match[4], *lines[1:]])
                operands = tuple(re.findall(r"%([\w.-]+)", rest.split("), ")[0]))
                self.computations[name][match[1]] = Instruction(match[1], match[2], match[3], operands, rest)
            lines.clear()

        for line in text.splitlines():
            if header := _COMPUTATION.match(line):
                finish_instruction()
                name = header[2]
                self.computations[name] = {}
                self.entry = name if header[1] else self.entry
            elif name and _INSTRUCTION.match(line):
                finish_instruction()
                lines.append(line)
            elif lines:  # a line of the config of a Pallas kernel, which may be "}": "}" does not end a computation
                lines.append(line)
        finish_instruction()

    def executed(self, name: str = "", count: int = 1) -> Iterator[tuple[Computation, Instruction, int]]:
        """Yields (computation, instruction, number of executions) for each executed instruction.

        A fusion is one instruction; those inside it are not yielded. The body of a loop is executed once per iteration,
        or once if the trip count is unknown. Of the branches of a conditional, the one that writes the most bytes
        counts as executed.

        name: the computation to start with, by default the entry.
        count: how often that computation is executed.
        """
        computation = self.computations[name or self.entry]
        for instruction in computation.values():
            yield computation, instruction, count
            match instruction.op:
                case "while":
                    iterations = self.trip_count(instruction) or 1
                    yield from self.executed(instruction.called("body"), count * iterations)
                case "call":
                    yield from self.executed(instruction.called("to_apply"), count)
                case "conditional":
                    listed = re.search(r"branch_computations=\{([^}]*)\}", instruction.text)
                    names = re.findall(r"%([\w.-]+)", listed[1]) if listed else []
                    # of a conditional on a predicate instead of an index
                    names += filter(None, map(instruction.called, ("true_computation", "false_computation")))
                    yield from max((list(self.executed(name, count)) for name in names), key=_bytes_written, default=[])

    def fused(self, fusion: Instruction) -> Computation:
        """Returns the computation inside a fusion."""
        return self.computations[fusion.called("calls")]

    def trip_count(self, loop: Instruction) -> int | None:
        """Returns the number of iterations of a loop, None if unknown.

        If XLA does not state the number, the loop is assumed to count from 0 up to the only integer constant of its
        condition. A comparison other than "less than" makes the number unknown, but is not noticed inside a fusion.
        """
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.text):
            return int(known[1])
        condition = self.computations[loop.called("condition")]
        root = list(condition.values())[-1]
        limits = [i.text for i in condition.values() if i.op == "constant" and i.shape.startswith(("s32[]", "u32[]"))]
        if len(limits) != 1 or (root.op == "compare" and "direction=LT" not in root.text):
            return None
        return int(limits[0].partition(")")[0])


def _bytes_written(executed: list[tuple[Computation, Instruction, int]]) -> float:
    return sum(count * num_bytes(instruction.shape) for _, instruction, count in executed)


def array_shapes(shape: str) -> list[str]:
    """Returns the shapes of the arrays in a tuple, in order, or of a single array."""
    return [match[0] for match in _ARRAY.finditer(shape)]


def dimensions(array_shape: str) -> list[int]:
    """Returns the dimensions of an array from the text of its shape."""
    match = _ARRAY.match(array_shape)
    return [int(dim) for dim in match[2].split(",") if dim] if match else []


def num_bytes(shape: str, hbm_only: bool = False) -> float:
    """Returns the bytes of an array or of all arrays of a tuple.

    hbm_only: whether to leave out arrays whose layout names another memory: S(1) is VMEM, S(6) is SMEM.
    """
    total = 0.0
    for dtype, extents, layout in _ARRAY.findall(shape):
        if not (hbm_only and re.search(r"S\([1-9]", layout)):
            # the first number in the name of a type is its bits: 16 in bf16; the type `token` has none
            bits = 8 if dtype == "pred" else int(re.search(r"\d+|$", dtype)[0] or 0)  # type: ignore[index]
            total += math.prod(int(dim) for dim in extents.split(",") if dim) * bits / 8
    return total
