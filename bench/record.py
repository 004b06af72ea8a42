"""What a bench leaves: one JSON line on standard output and the same at the end of `bench/results.jsonl`."""

import contextlib
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Iterable

RESULTS = pathlib.Path(__file__).with_name("results.jsonl")
PACKAGES = ("jax", "flax", "optax", "libtpu")


def record(bench: str, **found: object) -> None:
    """Prints and appends what was `found`, with the day, the commit, the machine and this environment's versions."""
    line = {
        "bench": bench,
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "machine": {"cpu": _cpu(), "cores": os.cpu_count()},
        "versions": versions(PACKAGES),
    }
    text = json.dumps(line | found)
    print(text, flush=True)
    with RESULTS.open("a") as results:
        results.write(text + "\n")


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def commit() -> str:
    """The short hash of the source that runs, with a + where tracked files were changed since."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", f":!/bench/{RESULTS.name}")
        return _git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    return "unknown"


def _git(*command: str) -> str:
    where = RESULTS.parent
    return subprocess.check_output(["git", *command], cwd=where, text=True, stderr=subprocess.DEVNULL).strip()


def _cpu() -> str:
    """The processor's name, where the system tells it."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
