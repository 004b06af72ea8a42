"""Makes attempts in another process, because a bug that an attempt finds may crash it, hang it or fill the memory.

An attempt changes a copy of a valid input and runs a command on the copy; see `attempts`.
"""

import contextlib
import faulthandler
import multiprocessing
import os
import resource
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

TIMEOUT = 60.0  # seconds after which an attempt hangs; usually the attempt's own SIGALRM timer ends it before
# A process with more threads, open files or bytes is replaced: what libraries leave behind makes later attempts fail.
MAX_THREADS, MAX_FILES, MAX_MEMORY = 400, 400, 6 << 30


class Worker:
    """A process that makes one attempt at a time; it is replaced when it dies, hangs, or has grown."""

    def __init__(self, scratch: Path):
        self.log = scratch / "log"
        self._start()

    def attempt(self, kind: str, seed: int, index: int) -> dict[str, Any]:
        """Makes an attempt; returns its outcome as a dict with the fields of `attempts.Outcome`.

        kind: the name of a kind of input.
        index: the number of the attempt among those of this kind and seed.
        """
        self.connection.send((kind, seed, index))
        try:
            if not self.connection.poll(TIMEOUT):
                return self._replace_and_return_outcome(f"did not end in {TIMEOUT:.0f} s, nor by its SIGALRM timer")
            outcome, has_grown = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            return self._replace_and_return_outcome(f"the process ended with exit code {self.process.exitcode}")
        if has_grown:
            self.close()
            self._start()
        return outcome

    def close(self) -> None:
        self.connection.close()  # the process ends when its connection closes
        self.process.join(5)
        self.process.kill()
        self.process.join()

    def _replace_and_return_outcome(self, fault: str) -> dict[str, Any]:
        """Replaces the process; returns the outcome of the attempt that crashed or hung it."""
        self.close()
        detail = " ".join(self.log.read_text(errors="replace")[-1000:].split())
        self._start()
        return {"result": "fault", "history": [], "warned": False, "fault": fault, "detail": detail}

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, self.log), daemon=True)
        self.process.start()
        theirs.close()
        self.kinds: list[str] = self.connection.recv()


def _serve(connection: Connection, log: Path) -> None:
    """Sends the names of the kinds, then an outcome for each (kind, seed, index) that it receives."""
    from bench.fuzz.attempts import attempt
    from bench.fuzz.kinds import KINDS, get_kind

    # Redirects file descriptors and not only `sys.stdout`, because libraries write to the descriptors.
    with log.open("ab") as file, open(os.devnull) as nothing:
        for descriptor, target in ((0, nothing), (1, file), (2, file)):
            os.dup2(target.fileno(), descriptor)
    faulthandler.enable(2, all_threads=False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # only the parent handles Ctrl-C
    connection.send([*KINDS])
    with contextlib.suppress(EOFError):  # the parent has closed it
        while True:
            kind, seed, index = connection.recv()
            os.ftruncate(2, 0)  # the log holds the output of one attempt
            outcome = attempt(get_kind(kind), Random(f"{seed}/{kind}/{index}"))
            connection.send((outcome._asdict(), _has_grown()))


def _has_grown() -> bool:
    """Whether this process holds so many threads or files, or has held so many bytes, that it should be replaced."""
    peak_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    threads, files = (len(os.listdir(f"/proc/self/{folder}")) for folder in ("task", "fd"))
    return threads > MAX_THREADS or files > MAX_FILES or peak_memory > MAX_MEMORY
