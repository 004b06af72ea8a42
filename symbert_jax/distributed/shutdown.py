"""How the processes of a run end together: where one is lost or fails alone, the others print one line and exit.

JAX ends them too, but with pages of C++, and on devices that do not notice a lost process only after `--lost_after`
seconds. Here processes write keys to the store that process 0 serves for JAX:

  notice/I        to process I: another process ends, which one and why. Empty where I itself ends as it should.
  acknowledged/I  Process I knows that the run ends, and will exit too.
  done/I          Process I reads and writes no more keys.
"""

import atexit
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NoReturn

from jax._src.distributed import global_state  # the store has no public name; process numbers need no device here
from jax.errors import JaxRuntimeError

from symbert_jax.distributed import stderr_filter

NOTICE, ACKNOWLEDGED, DONE = (f"symbert_jax/{name}/" for name in ("notice", "acknowledged", "done"))
PATIENCE = 5.0  # seconds within which a process that runs acknowledges a notice
DAY = 86_400_000  # milliseconds
FAILED = "ended with an error, which it names"
HINT = "; start the same command again"
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CONNECTION = ("gloo", "nccl", "connection", "socket", "unavailable", "deadline", "cancelled")  # of errors between peers

before_exit = contextlib.ExitStack()  # closed where a process exits without unwinding its stack
_exiting = threading.Lock()  # acquired, for good, by the thread that ends this process
_watching = False
_filter: subprocess.Popen | None = None  # referenced, or Python warns that it still runs


def watch_peers() -> None:
    """Starts to watch the other processes that JAX has connected: this one exits when one of them is lost or fails."""
    global _watching
    _watching, sys.excepthook = True, _exit_after
    listener = threading.Thread(target=_listen, daemon=True)
    listener.start()
    atexit.register(_stop_listening, listener)
    # JAX aborts this process where it notices first, which would dump the whole memory to the disk. The C function
    # `_exit` as the handler, called with the number of the signal, makes it exit code 6; one of Python's runs too late.
    libc = ctypes.CDLL(None)
    libc.signal(signal.SIGABRT, libc._exit)
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "0":  # 0 asks for all that XLA says
        _filter_stderr()


@contextlib.contextmanager
def exit_on_lost_peer() -> Iterator[None]:
    """Exits where an error of JAX inside may come from a lost process: unwinding the stack could wait for that one."""
    try:
        yield
    except JaxRuntimeError as error:
        if _watching and "RESOURCE_EXHAUSTED" not in str(error):  # which every process meets
            _exit_after_jax_error(error)
        raise


def leave(code: int) -> None:
    """Call at the end of a command with its exit code. Returns if it is 0 or this process is alone.

    Else notifies the other processes, unless they have come to their end too, and exits.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # what there was to save is saved
    if code and _watching:
        _exiting.acquire()
        _set(ACKNOWLEDGED, global_state.process_id)
        if _unresponsive():
            _notify(FAILED)
        exit_now(code)


def notify_and_exit(code: int, line: str, why: str) -> NoReturn:
    """Exits with a line on stderr; the other processes print `why`, and exit too."""
    _exiting.acquire()
    _print(line)
    if _watching:
        _notify(why)
    exit_now(code)


def exit_now(code: int) -> NoReturn:
    """Exits without unwinding the stack. Process 0, which serves the keys, waits for those that know of the end."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    with contextlib.suppress(Exception):
        before_exit.close()
    if _watching:
        _set(DONE, global_state.process_id)
        if global_state.process_id == 0:
            until = time.monotonic() + PATIENCE
            while _processes(ACKNOWLEDGED) - _processes(DONE) and time.monotonic() < until:
                time.sleep(0.05)
            time.sleep(0.2)  # the last of them still waits for the answer to its `done`
    os._exit(code)


def _listen() -> None:
    """Exits when this process gets a notice, or cannot reach process 0."""
    notice = None
    while notice is None:
        try:
            notice = _store().blocking_key_value_get(f"{NOTICE}{global_state.process_id}", DAY)
        except JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                _exiting.acquire()
                _print(_lost_message({0}))
                os._exit(1)  # at once: JAX is about to abort this process
    if notice:
        _exiting.acquire()
        _set(ACKNOWLEDGED, global_state.process_id)
        sender, why = notice.split(maxsplit=1)
        _print(_lost_message(_unresponsive()) or f"error: process {sender} {why}{HINT}")
        exit_now(1)


def _notify(why: str) -> set[int]:
    """Sends a notice to all other processes; returns those that do not acknowledge it."""
    _set(ACKNOWLEDGED, global_state.process_id)
    for process in range(global_state.num_processes):
        if process != global_state.process_id:
            _set(NOTICE, process, f"{global_state.process_id} {why}")
    return _unresponsive()


def _unresponsive() -> set[int]:
    """Returns the processes that do not acknowledge within `PATIENCE` that the run ends."""
    until, everyone = time.monotonic() + PATIENCE, set(range(global_state.num_processes))
    try:
        while (missing := everyone - _processes(ACKNOWLEDGED)) and time.monotonic() < until:
            time.sleep(0.05)
    except JaxRuntimeError:
        return {0}
    return missing


def _store() -> Any:
    return global_state.client


def _set(key: str, process: int, value: str = "-") -> None:
    with contextlib.suppress(JaxRuntimeError):  # process 0 is lost
        _store().key_value_set(f"{key}{process}", value, allow_overwrite=True)


def _processes(key: str) -> set[int]:
    """Returns the processes for which the key is set."""
    return {int(name.rsplit("/", 1)[1]) for name, _ in _store().key_value_dir_get(key)}


def _exit_after(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Exits after an exception that nobody caught: an ordinary exit would wait for the others, and they for it."""
    if isinstance(error, JaxRuntimeError):
        _exit_after_jax_error(error)
    sys.__excepthook__(kind, error, trace)
    leave(1)


def _exit_after_jax_error(error: JaxRuntimeError) -> NoReturn:
    _exiting.acquire()
    lost = _lost_message(_notify(FAILED))
    if lost or any(word in str(error).lower() for word in CONNECTION):
        _print(lost or f"error: the connection to another process broke{HINT}")
    else:
        traceback.print_exception(error)
    exit_now(1)


def _lost_message(processes: set[int]) -> str:
    """Returns the error line for lost processes, empty where there are none."""
    if len(processes) < 2:
        return "".join(f"error: process {process} is gone{HINT}" for process in processes)
    return f"error: processes {', '.join(map(str, sorted(processes)))} are gone{HINT}"


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _stop_listening(listener: threading.Thread) -> None:
    """Ends the listener at an ordinary exit, as Python could not end while it waits for a notice."""
    for key, value in ((ACKNOWLEDGED, "-"), (DONE, "-"), (NOTICE, "")):
        _set(key, global_state.process_id, value)
    listener.join(PATIENCE)


def _filter_stderr() -> None:
    """Sends what this process writes to stderr, XLA's messages included, through `stderr_filter`."""
    global _filter
    reading, writing = os.pipe()
    command = [sys.executable, "-I", "-S", stderr_filter.__file__]
    with contextlib.suppress(OSError):  # where no process can be started, the messages stay as they are
        _filter = subprocess.Popen(command, stdin=reading, stdout=subprocess.DEVNULL, start_new_session=True)
        os.dup2(writing, 2)
    os.close(reading)
    os.close(writing)
