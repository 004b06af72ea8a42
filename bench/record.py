"""Records of benches: one JSON line on standard output, which is also appended to `bench/results.jsonl`."""

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


def record(bench: str, **results: object) -> None:
    """Prints and appends results, with the date, the commit, the machine and the versions of this environment."""
    line = {
        "bench": bench,
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "machine": {"cpu": _cpu(), "cores": os.cpu_count()},
        "versions": versions(PACKAGES),
    }
    text = json.dumps(line | results)
    print(text, flush=True)
    with RESULTS.open("a") as file:
        file.write(text + "\n")


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Returns the versions of those packages that are installed."""
    installed = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[package] = importlib.metadata.version(package)
    return installed


def commit() -> str:
    """Returns the short hash of the commit that runs, with a + if tracked files other than the results have changed.

    Without a repository or git, returns "unknown".
    """
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", f":!/bench/{RESULTS.name}")
        return _git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    return "unknown"


def _git(*command: str) -> str:
    folder = RESULTS.parent
    return subprocess.check_output(["git", *command], cwd=folder, text=True, stderr=subprocess.DEVNULL).strip()


def _cpu() -> str:
    """Returns the name of the processor or, if it is unknown, of its architecture."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
