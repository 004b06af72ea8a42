"""What an instruction exchanges."""

import math
import re
from collections.abc import Iterator

from symbert_jax.estimate.hlo import Computation, Instruction, Module, size


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


def _group(text: str) -> int:
    """How many devices each group of a collective has; 0 where all are one group."""
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", text):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(int(part or sizes[axis]) for axis, part in re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh[2]))
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]", text):
        return int(iota[1])
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", text)
    return listed[1].count(",") + 1 if listed else 0
