"""Starts processes of the command line as forks of one process that has imported JAX, which saves their imports."""

import atexit
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # as the command line sets it; XLA reads it when it is imported
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["symbert_jax.train.loop", "symbert_jax.cli.commands", "tests.forked"])
# JAX reads these when it is imported, which happens before a fork knows its environment.
_JAX_OPTIONS = {"JAX_NUM_CPU_DEVICES": int, "JAX_COMPILATION_CACHE_DIR": str, "JAX_DEBUG_LOG_MODULES": str}
_JAX_OPTIONS |= {"JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": str}


class ForkedCommand:
    """A running `python -m symbert_jax ARGUMENTS`, with the interface of a `Popen` whose streams are one pipe of text.

    arguments: the arguments of the command line.
    environment: all environment variables of the command.
    ends: the file descriptors to read the output from and to write it to, by default those of a pipe.
    """

    def __init__(self, arguments: list[str], environment: dict[str, str], ends: tuple[int, int] | None = None):
        reading, writing = ends or os.pipe()
        self._process = _SERVER.Process(target=_run, args=(list(map(str, arguments)), environment, DupFd(writing)))
        self._process.start()
        os.close(writing)
        self.args, self.stdout, self.pid = arguments, os.fdopen(reading), self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Returns the rest of the output, and waits for the end; kills the process after `timeout` seconds."""
        timer = threading.Timer(timeout or threading.TIMEOUT_MAX, self.kill)
        timer.start()
        output = "" if self.stdout.closed else self.stdout.read()
        self.wait()
        timer.cancel()
        self.stdout.close()
        return output, None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(arguments: list[str], environment: dict[str, str], output: Any) -> None:
    """Runs the command in this fork, with its output in a pipe."""
    from symbert_jax.__main__ import start

    os.dup2(output.detach(), 1)
    os.dup2(1, 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    import jax

    for name, convert in _JAX_OPTIONS.items():
        if name in environment:
            jax.config.update(name.lower(), convert(environment[name]))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # as the command line sets it
    sys.argv = ["symbert_jax", *arguments]
    if "KILLED" in environment:
        importlib.import_module("tests.train.killed")
    try:
        start()
    finally:  # what Python does when a process ends, but not when a fork does
        threading._shutdown()
        atexit._run_exitfuncs()
