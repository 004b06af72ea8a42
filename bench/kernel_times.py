"""Which kernels of a compiled program take the time, by a trace of JAX's profiler."""

import collections
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax

ACCELERATOR = "/device:"  # begins the name of the part of a trace that an accelerator recorded
KERNEL_LINES = ("Stream", "XLA Ops")  # begin the names of the lines with the kernels of a GPU, and of a TPU


class KernelTime(NamedTuple):
    """The time of all kernels of one kind and from one operation of the model, such as those of all unrolled layers."""

    milliseconds: float
    calls: float
    kernel: str
    operation: str


def measure(run: Callable[[int], object], steps: int, program: str) -> list[KernelTime]:
    """Returns the time and the calls of each kind of kernel in a step, the slowest kind first.

    run: runs a number of steps.
    program: the text of the compiled program, which knows the operation that each kernel belongs to.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run(steps)
        (trace,) = Path(folder).rglob("*.xplane.pb")
        kernels = list(_read_kernels(jax.profiler.ProfileData.from_file(str(trace))))
    operations = _find_operations(program)
    totals: dict[tuple[str, str], list[float]] = collections.defaultdict(lambda: [0.0, 0])
    for name, instruction, nanoseconds in kernels:
        operation = operations.get(_normalized(instruction)) or operations.get(_normalized(name), "")
        total = totals[re.sub(r"([._]\d+)+$", "", name), operation]
        total[0] += nanoseconds / 1e6 / steps
        total[1] += 1 / steps
    return sorted((KernelTime(*total, *key) for key, total in totals.items()), reverse=True)


def table(times: list[KernelTime], count: int) -> str:
    """Returns the slowest `count` kinds of kernels and the sum of all as a Markdown table."""
    lines = ["| ms | calls | kernel | operation |", "|---|---|---|---|"]
    lines += [
        f"| {ms:.3f} | {calls:.0f} | {kernel[:60]} | {where[-70:]} |" for ms, calls, kernel, where in times[:count]
    ]
    total, calls = sum(each.milliseconds for each in times), sum(each.calls for each in times)
    return "\n".join([*lines, f"| {total:.3f} | {calls:.0f} | all kernels | |"])


def _read_kernels(trace: jax.profiler.ProfileData) -> Iterator[tuple[str, str, float]]:
    """Yields the name, the instruction of the program if the trace has it, and the nanoseconds of each kernel's run."""
    kernel_lines, other_lines = [], []
    for plane in trace.planes:  # a process that has loaded the TPU compiler has a plane of a TPU without kernels
        if plane.name.startswith(ACCELERATOR):
            kernel_lines += [line for line in plane.lines if line.name.startswith(KERNEL_LINES)]
        else:
            other_lines += plane.lines
    for line in kernel_lines or other_lines:
        for event in line.events:
            instruction = str(dict(event.stats).get("hlo_op", ""))
            if kernel_lines or instruction:  # a CPU records its functions between the kernels
                yield event.name, instruction, event.duration_ns


def _find_operations(program: str) -> dict[str, str]:
    """Returns the operation of the model that each instruction of the program belongs to."""
    found = re.findall(r'^\s*(?:ROOT )?%?([\w.-]+) = .*op_name="([^"]*)"', program, re.MULTILINE)
    return {_normalized(name): operation for name, operation in found}


def _normalized(name: str) -> str:
    """Returns the name of an instruction as that of its kernel."""
    return re.sub(r"[.-]", "_", name)
