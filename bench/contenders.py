"""Contenders of a comparison: each is a process that a bench asks for timings, in alternating turns.

Separate processes do not share threads, caches or memory. Contenders that need other packages run in an environment of
their own (`make peers-env`). The order of turns alternates, so that noise of the machine affects all contenders alike.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence

ROOT = pathlib.Path(__file__).resolve().parents[1]
# The interpreter of contenders that need other packages; the variable names one that has them already.
PEERS_PYTHON = pathlib.Path(os.environ.get("PEERS_PYTHON", ROOT / ".venv-peers/bin/python"))

DEVICES = {
    "cpu": {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""},
    "gpu": {"JAX_PLATFORMS": "cuda", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},  # contenders share the GPU
}
QUIET = {"TRANSFORMERS_VERBOSITY": "error", "KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3"}
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # as `pretrain` and `finetune` set it


def in_turns(rounds: int, names: Sequence[str]) -> Iterator[str]:
    """Yields each of `names` once per round, in every other round in reverse order."""
    for i in range(rounds):
        yield from names if i % 2 == 0 else reversed(names)


class Contenders(contextlib.AbstractContextManager):
    """Worker processes `python -m bench.BENCH --worker NAME`; each reads questions and prints one JSON line per answer.

    peers: the names of contenders that need the environment of `make peers-env`.
    """

    def __init__(
        self, bench: str, names: Sequence[str], peers: Collection[str], flags: Sequence[str], device: str = "cpu"
    ):
        if not PEERS_PYTHON.exists() and not set(names).isdisjoint(peers):
            sys.exit(f"bench.{bench}: {PEERS_PYTHON} is missing; run: make peers-env")
        self.bench, self.names = bench, names
        self.processes = {
            name: subprocess.Popen(
                [PEERS_PYTHON if name in peers else sys.executable, "-m", f"bench.{bench}", *flags, "--worker", name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                env=HUGE_PAGES | os.environ | QUIET | DEVICES[device],
            )
            for name in names
        }

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.kill()

    def ask(self, name: str, question: str | None = None):
        """Sends `question` to a worker as a line, unless it is None; returns the worker's next answer."""
        process = self.processes[name]
        if question is not None:
            with contextlib.suppress(BrokenPipeError):  # the worker has ended, so the answer below is empty
                process.stdin.write(question + "\n")
                process.stdin.flush()
        if not (line := process.stdout.readline()):
            sys.exit(f"bench.{self.bench}: {name} stopped; its output is above")
        return json.loads(line)

    def turns(self, rounds: int, question: str) -> Iterator[tuple]:
        """Sends `question` to each worker `rounds` times; yields the worker's name with each answer."""
        for name in in_turns(rounds, self.names):
            yield name, self.ask(name, question)
