"""Starts real processes on one machine, like those of a pod."""

import contextlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.forked import ForkedCommand

ROOT = Path(__file__).parents[1]
STEPS = 32  # of the run that `pretrain` describes
PATIENCE = 400  # seconds after which a process counts as hanging


def free_port() -> int:
    """Returns a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def run_processes(
    count: int, devices: int, command: list[str], flags: dict[int, list[str]] | None = None, **environment: str
) -> Iterator[list[ForkedCommand]]:
    """Starts `count` processes of one command; kills those that still run when the context ends.

    command: arguments of the command line, or of Python if the first is -c.
    devices: the number of CPU devices of each process.
    flags: additional flags, by the index of the process.
    """
    join_flags = [f"--coordinator=127.0.0.1:{free_port()}", f"--processes={count}"] if count > 1 else []
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)} | environment
    processes = []
    try:
        for number in range(count):
            own_flags = [*join_flags, f"--process={number}"] if join_flags else []
            arguments = [*command, *own_flags, *(flags or {}).get(number, [])]
            if command[0] == "-c":
                pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
                processes.append(subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environment, **pipe))
            else:
                processes.append(ForkedCommand(arguments, environment))
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def pretrain(workdir: Path, corpus: Path, *flags: str) -> list[str]:
    """Returns the command of a tiny pretraining run."""
    changes = {
        "data.dir": corpus,
        "data.batch_size": 16,
        "model.attention": "pairwise",
        "model.layers": 1,
        "optim.warmup_steps": 2,
        "train.steps": STEPS,
        "train.log_every": 1,
        "train.validate_every": STEPS,
        "train.validate_batches": 1,
        "train.checkpoint_every": STEPS,
    }
    fields = [f"--config.{field}={value}" for field, value in changes.items()]
    return ["pretrain", "--config=configs/tiny.py", f"--workdir={workdir}", *fields, *flags]


def wait(processes: list[ForkedCommand]) -> list[str]:
    """Returns the outputs of all processes when they have ended; raises if one takes longer than `PATIENCE`."""
    return [process.communicate(timeout=PATIENCE)[0] for process in processes]


def wait_all_ok(processes: list[ForkedCommand]) -> list[str]:
    """Returns the outputs of all processes when they have ended; their exit codes must be 0."""
    outputs = wait(processes)
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(outputs)
    return outputs


def read_until(process: ForkedCommand, text: str) -> str:
    """Returns the next lines of output, up to the one that holds `text`; fails if the process ends before."""
    output = ""
    while text not in output:
        line = process.stdout.readline()
        assert line, output
        output += line
    return output


def own_lines(output: str) -> list[str]:
    """Returns the lines that Gloo did not write. Its threads break each other's lines, also before the last number."""
    gloo = re.compile(r".*\[Gloo\].*|.*peer ranks.*|[ :]*\d*")
    return [line for line in output.splitlines() if not gloo.fullmatch(line)]
