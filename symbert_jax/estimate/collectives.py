"""Finds the collectives of an HLO instruction: the instruction itself, if it is one, or those inside a fusion."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from symbert_jax.estimate.hlo import Computation, Instruction, Module, num_bytes

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


class Exchange(NamedTuple):
    """One execution of a collective."""

    channel: str  # the channel id, or the name of an instruction without one
    kind: str  # one of COLLECTIVES
    group: int  # the number of devices in each group
    bytes: float  # of the whole array of a group; all-to-all and collective-permute: of the array of one device


def exchanges(
    module: Module, computation: Computation, instruction: Instruction, num_devices: int
) -> Iterator[Exchange]:
    """Yields the collectives of an instruction. A collective spans all devices unless it names groups.

    A TPU program may spread one collective over several fusions. Each of them yields it with the same `channel`, so
    callers must count each channel once. A fusion of an all-reduce and a slice of its result yields a reduce-scatter.
    """
    kind = instruction.op.removesuffix("-done")
    if fused := module.computations.get(instruction.called("calls")):
        ends_in_slice = list(fused.values())[-1].op == "dynamic-slice"
        for part in fused.values():
            for exchange in exchanges(module, fused, part, num_devices):
                is_scattered = ends_in_slice and exchange.kind == "all-reduce"
                yield exchange._replace(kind="reduce-scatter") if is_scattered else exchange
    elif kind in COLLECTIVES:
        start = computation[instruction.operands[0]] if instruction.op.endswith("-done") else instruction
        group = _group_size(start.text) or num_devices
        channel = re.search(r"channel_id=(\d+)", start.text)
        size = num_bytes(instruction.shape) * (group if kind == "reduce-scatter" else 1)
        yield Exchange(channel[1] if channel else start.name, kind, group, size)


def _group_size(text: str) -> int:
    """Returns the number of devices in each group of a collective; 0 if all devices are one group."""
    # mesh['x'=2,'y'=4] {'x','y'}: groups of 2 x 4; {'y':(1)2} is a sub-axis of 'y', of size 2
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", text):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(
            int(sub_axis or sizes[axis]) for axis, sub_axis in re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh[2])
        )
    # [4,2]<=[8]: four groups of 2
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]", text):
        return int(iota[1])
    # {{0,1},{2,3}}: groups of 2; {} is a single group
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", text)
    return listed[1].count(",") + 1 if listed else 0
