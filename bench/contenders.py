"""Contenders of a comparison: processes of one bench that answer line by line, asked in turns.

Each lives alone, so that none inherits another's threads, caches or memory; those of `peers` live in an environment
of their own (`make peers-env`). A noisy machine is noisy for all: turns alternate their order.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence

ROOT = pathlib.Path(__file__).resolve().parents[1]
PEERS_PYTHON = ROOT / ".venv-peers/bin/python"

DEVICES = {
    "cpu": {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""},
    "gpu": {"JAX_PLATFORMS": "cuda", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},  # contenders share its memory
}
QUIET = {"TRANSFORMERS_VERBOSITY": "error", "KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3"}
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # as in the Makefile


def in_turns(rounds: int, names: Sequence[str]) -> Iterator[str]:
    """Each of `names` once a round, every other round in reverse order."""
    for turn in range(rounds):
        yield from names if turn % 2 == 0 else reversed(names)


class Contenders(contextlib.AbstractContextManager):
    """The running workers of `python -m bench.NAME`, by the name that each got as `--worker`."""

    def __init__(
        self, bench: str, names: Sequence[str], peers: Collection[str], flags: Sequence[str], device: str = "cpu"
    ):
        if not PEERS_PYTHON.exists():
            sys.exit(f"bench.{bench}: .venv-peers is missing; run: make peers-env")
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
        """Sends a line, or none, and waits for the JSON line that answers it."""
        process = self.processes[name]
        if question is not None:
            with contextlib.suppress(BrokenPipeError):  # then there is no answer either
                process.stdin.write(question + "\n")
                process.stdin.flush()
        if not (line := process.stdout.readline()):
            sys.exit(f"bench.{self.bench}: {name} stopped; what it said is above")
        return json.loads(line)

    def turns(self, rounds: int, question: str) -> Iterator[tuple]:
        """Asks each of them `rounds` times; pairs of name and answer."""
        for name in in_turns(rounds, self.names):
            yield name, self.ask(name, question)
