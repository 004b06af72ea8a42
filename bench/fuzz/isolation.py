"""The limits of an attempt, and the restoration of the process state that an attempt changes."""

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from unittest import mock

import jax

MAX_SECONDS, MAX_BYTES = 20.0, 4 << 30  # of one attempt


class Hang(BaseException):
    """Ends an attempt that takes too long; a `BaseException`, so that no handler of the package catches it."""


def environment(folder: Path) -> dict[str, str]:
    """Returns environment variables that make libraries write to the folder."""
    return {"HOME": os.fspath(folder), "TFDS_DATA_DIR": os.fspath(folder / "tfds")}


@contextlib.contextmanager
def own_process_state(folder: Path) -> Iterator[None]:
    """Works in the folder, with `environment(folder)`; at the end, restores the state of the process.

    The state is the working directory, the environment variables, the import path, the signal handlers, and whether the
    compilation cache is on. Modules that were imported from the folder are removed.
    """
    modules, import_path = set(sys.modules), [*sys.path]
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    is_cache_on = jax.config.jax_enable_compilation_cache
    try:
        with contextlib.chdir(folder), mock.patch.dict(os.environ, environment(folder)):
            yield
    finally:
        sys.path[:] = import_path
        for module in set(sys.modules) - modules:
            if str(getattr(sys.modules[module], "__file__", "")).startswith(os.fspath(folder)):
                del sys.modules[module]
        for number, handler in handlers.items():
            signal.signal(number, handler)
        jax.config.update("jax_enable_compilation_cache", is_cache_on)


@contextlib.contextmanager
def limits() -> Iterator[None]:
    """Raises `Hang` after MAX_SECONDS, and lets the process allocate at most MAX_BYTES more."""

    def hang(number: int, frame: FrameType | None) -> None:
        raise Hang(f"longer than {MAX_SECONDS:.0f} s")

    status = Path("/proc/self/status").read_text()
    used = int(status.partition("VmData:")[2].split()[0]) << 10
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    previous_handler = signal.signal(signal.SIGALRM, hang)
    resource.setrlimit(resource.RLIMIT_DATA, (used + MAX_BYTES, hard))
    signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        signal.signal(signal.SIGALRM, previous_handler)
