"""Several real processes on one machine, a pod in small."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
STEPS = 16
PATIENCE = 400  # seconds, after which a process hangs


def port() -> int:
    """A free one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def several(count: int, devices: int, command: list[str], own: dict[int, list[str]] | None = None, **environment: str):
    """`count` processes of `command`, each with its own further arguments and number of CPU devices; none survives."""
    place = [f"--coordinator=127.0.0.1:{port()}", f"--processes={count}"] if count > 1 else []
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)} | environment
    processes = []
    try:
        for number in range(count):
            mine = [*place, f"--process={number}"] if place else []
            processes.append(
                subprocess.Popen(
                    [sys.executable, *command, *mine, *(own or {}).get(number, [])],
                    **{"cwd": ROOT, "env": environment, "text": True},
                    **{"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT},
                )
            )
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def pretrain(workdir: Path, corpus: Path, *flags: str) -> list[str]:
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
    return ["-m", "symbert_jax", "pretrain", "--config=configs/tiny.py", f"--workdir={workdir}", *fields, *flags]


def ends(processes: list[subprocess.Popen]) -> list[str]:
    """What each of them said; all ended well."""
    outputs = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(outputs)
    return outputs


def read_until(process: subprocess.Popen, text: str) -> str:
    said = ""
    while text not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    return said


def own_lines(said: str) -> list[str]:
    """Without those of Gloo, whose threads may break each other's in two."""
    return [line for line in said.splitlines() if "[Gloo]" not in line and "peer ranks" not in line]
