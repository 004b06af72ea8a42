"""The text of an optimised XLA program, parsed: its computations, what runs how often, the shapes of arrays."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^ +(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][a-z0-9-]*)\((.*)$")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")


@dataclass(frozen=True)
class Instruction:
    """One line of a computation; `shape` as the text writes it, of one array or of a tuple."""

    name: str
    shape: str
    op: str
    operands: tuple[str, ...]
    text: str  # all that follows the name of the operation

    def called(self, attribute: str) -> str:
        """The computation named by `body=`, `calls=` or the like; empty where there is none."""
        found = re.search(rf"\b{attribute}=%?([\w.-]+)", self.text)
        return found[1] if found else ""


Computation = dict[str, Instruction]  # by name, in order; the last is the root


class Module:
    """One device's share of a program."""

    def __init__(self, text: str):
        self.computations: dict[str, Computation] = {}
        self.entry, name, lines = "", "", list[str]()

        def finish() -> None:
            if lines and (match := _INSTRUCTION.match(lines[0])):
                rest = "\n".join([match[4], *lines[1:]])
                operands = tuple(re.findall(r"%([\w.-]+)", rest.split("), ")[0]))
                self.computations[name][match[1]] = Instruction(match[1], match[2], match[3], operands, rest)
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

    def runs(self, name: str = "", times: int = 1) -> Iterator[tuple[Computation, Instruction, int]]:
        """Every instruction that computation `name`, or else the entry, schedules, with how often it runs.

        Yields (the computation that it stands in, itself or what it calls; the instruction; `times` by its turns).
        """
        scope = self.computations[name or self.entry]
        for instruction in scope.values():
            yield scope, instruction, times
            match instruction.op:
                case "while":
                    turns = self.turns(instruction) or 1
                    yield from self.runs(instruction.called("body"), times * turns)
                case "call":
                    yield from self.runs(instruction.called("to_apply"), times)
                case "conditional":  # at most: every branch
                    for branch in re.findall(r"%([\w.-]+)", instruction.text.partition("branch_computations=")[2]):
                        if branch in self.computations:
                            yield from self.runs(branch, times)

    def fused(self, fusion: Instruction) -> Computation:
        return self.computations[fusion.called("calls")]

    def turns(self, loop: Instruction) -> int | None:
        """How often a loop runs: stated by XLA, or the constant that its condition compares the counter with."""
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.text):
            return int(known[1])
        condition = self.computations[loop.called("condition")]
        root = list(condition.values())[-1]
        limits = [i.text for i in condition.values() if i.op == "constant" and i.shape.startswith(("s32[]", "u32[]"))]
        if len(limits) != 1 or (root.op == "compare" and "direction=LT" not in root.text):
            return None
        return int(limits[0].partition(")")[0])


def arrays(shape: str) -> list[str]:
    """The array of a shape, or all those of a tuple's, in order."""
    return [match[0] for match in _ARRAY.finditer(shape)]


def dims(array: str) -> list[int]:
    found = _ARRAY.match(array)
    return [int(dim) for dim in found[2].split(",") if dim] if found else []


def size(shape: str, hbm: bool = False) -> float:
    """Bytes of an array, or of all arrays of a tuple; with `hbm` of those that live there."""
    total = 0.0
    for dtype, extents, layout in _ARRAY.findall(shape):
        if not (hbm and re.search(r"S\([1-9]", layout)):
            bits = 8 if dtype == "pred" else int(re.search(r"\d+|$", dtype)[0] or 0)  # type: ignore[index]
            total += math.prod(int(dim) for dim in extents.split(",") if dim) * bits / 8
    return total
