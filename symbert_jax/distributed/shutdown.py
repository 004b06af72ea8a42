"""How the processes of a run end together: if one is lost or fails alone, the others print one line and exit.

JAX ends them too, but it prints pages of C++ messages, and it takes `--lost_after` seconds if the devices do not notice
that a process is lost. Here processes write keys to the store that process 0 serves for JAX:

  notice/I        Tells process I which other process ends, and why. Empty: process I itself exits in the ordinary way.
  acknowledged/I  Process I knows that the run ends, and will exit too.
  failed/I        Process I failed by itself; the value is its exit code, with which the others end too.
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
from symbert_jax.errors import UserError

# Prefixes of keys; the index of a process follows.
NOTICE, ACKNOWLEDGED, FAILED, DONE = (f"symbert_jax/{name}/" for name in ("notice", "acknowledged", "failed", "done"))
PATIENCE = 5.0  # seconds within which a running process acknowledges a notice
DAY = 86_400_000  # milliseconds after which a wait for a notice starts again
AFTER_ERROR = "ended with an error; see its output"  # a reason in a notice
HINT = "; start the same command again"
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Words in errors of connections between processes.
CONNECTION = ("gloo", "nccl", "connection", "socket", "unavailable", "deadline", "cancelled")

before_exit = contextlib.ExitStack()  # closed before a process exits without unwinding its stack
_exiting = threading.Lock()  # acquired, and never released, by the thread that ends this process
_watching = False  # whether this process is one of several
_own_error: UserError | None = None  # the error for which this process unwinds its stack
_filter: subprocess.Popen | None = None  # without this reference, Python would warn that the filter still runs


def watch_peers() -> None:
    """Starts to watch the other processes that JAX has connected. This one exits when one of them is lost or fails."""
    global _watching
    _watching, sys.excepthook = True, _exit_after
    listener = threading.Thread(target=_listen, daemon=True)
    listener.start()
    atexit.register(_stop_listening, listener)
    # If JAX notices a lost process first, it aborts this one, which would dump the whole memory to the disk. So the
    # handler of SIGABRT is the C function `_exit`, which exits with the number of the signal, 6, as exit code. A Python
    # handler would run too late.
    libc = ctypes.CDLL(None)
    libc.signal(signal.SIGABRT, libc._exit)
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "0":  # 0 asks for all messages of XLA
        _filter_stderr()


@contextlib.contextmanager
def exit_on_lost_peer() -> Iterator[None]:
    """Handles errors inside of the context if this process is one of several.

    After an error of JAX, exits, unless the devices ran out of memory: the error may come from a lost process, and
    unwinding the stack could wait for that process.
    After a `UserError`, first records that this process failed. Unwinding may last until the others fail as a
    consequence; they then find the record, and end with the exit code of this process.
    """
    global _own_error
    try:
        yield
    except UserError as error:
        if _watching:
            _own_error = error
            _set(FAILED, global_state.process_id, str(error.exit_code))
        raise
    except JaxRuntimeError as error:
        if _watching and "RESOURCE_EXHAUSTED" not in str(error):  # every process runs out of memory at the same step
            _exit_after_jax_error(error)
        raise


def leave(code: int) -> None:
    """Call at the end of a command with its exit code. Returns if `code` is 0 or this process runs alone.

    Otherwise exits, and ends the other processes with the same code, unless they end by themselves.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # all that could be saved is saved
    if code and _watching:
        _exiting.acquire()
        _set(FAILED, global_state.process_id, str(code))
        _set(ACKNOWLEDGED, global_state.process_id)
        if _unresponsive():
            _notify(AFTER_ERROR)
        exit_now(code)


def notify_and_exit(code: int, line: str, why: str) -> NoReturn:
    """Exits with a line on stderr; the other processes print `why`, and exit too."""
    _exiting.acquire()
    _print(line)
    if _watching:
        _notify(why)
    exit_now(code)


def exit_now(code: int) -> NoReturn:
    """Exits without unwinding the stack. Process 0, which serves the keys, first waits until the others are done."""
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
            time.sleep(0.2)  # the last of them still waits for the response to its `done`
    os._exit(code)


def _listen() -> None:
    """Exits when this process gets a notice, or cannot reach process 0. Returns after an empty notice."""
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
        _set(ACKNOWLEDGED, global_state.process_id)
        if _own_error:
            time.sleep(PATIENCE / 2)  # meanwhile the main thread may unwind its stack and call `leave`
        _exiting.acquire()
        sender, why = notice.split(maxsplit=1)
        if not _own_error and (lost := _lost_message(_unresponsive())):
            _print(lost)
            exit_now(1)
        exit_now(_report(int(sender), why))


def _report(process: int, why: str) -> int:
    """Prints why this process ends, its own error or the end of `process`; returns the exit code."""
    if _own_error:
        for line in str(_own_error).splitlines():
            _print(f"error: {line}")
        return _own_error.exit_code
    code = _failed().get(process, 1)
    _print(f"error: process {process} {why}" + HINT * (code == 1))
    return code


def _notify(why: str) -> set[int]:
    """Sends a notice to all other processes; returns those that do not acknowledge it."""
    _set(ACKNOWLEDGED, global_state.process_id)
    for process in range(global_state.num_processes):
        if process != global_state.process_id:
            _set(NOTICE, process, f"{global_state.process_id} {why}")
    return _unresponsive()


def _unresponsive() -> set[int]:
    """Returns the processes that do not acknowledge within `PATIENCE` that the run ends; {0} if process 0 is lost."""
    until, everyone = time.monotonic() + PATIENCE, set(range(global_state.num_processes))
    try:
        while (missing := everyone - _processes(ACKNOWLEDGED)) and time.monotonic() < until:
            time.sleep(0.05)
    except JaxRuntimeError:
        return {0}
    return missing


def _store() -> Any:
    return global_state.client


def _set(prefix: str, process: int, value: str = "-") -> None:
    """Sets a key of a process. `acknowledged` and `done` need no value, so they get the default."""
    with contextlib.suppress(JaxRuntimeError):  # process 0 is lost
        _store().key_value_set(f"{prefix}{process}", value, allow_overwrite=True)


def _processes(prefix: str) -> set[int]:
    """Returns the processes of which the key with this prefix is set."""
    return {int(key.rsplit("/", 1)[1]) for key, _ in _store().key_value_dir_get(prefix)}


def _failed() -> dict[int, int]:
    """Returns the exit codes of the processes that failed by themselves."""
    with contextlib.suppress(JaxRuntimeError):  # process 0 is lost
        return {int(key.rsplit("/", 1)[1]): int(code) for key, code in _store().key_value_dir_get(FAILED)}
    return {}


def _exit_after(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Exits after an exception that nobody caught. In an ordinary exit, the processes would wait for each other."""
    if isinstance(error, JaxRuntimeError):
        _exit_after_jax_error(error)
    sys.__excepthook__(kind, error, trace)
    leave(1)


def _exit_after_jax_error(error: JaxRuntimeError) -> NoReturn:
    """Exits, and prints the cause: another process that failed or is lost, a broken connection, or the error itself."""
    _exiting.acquire()
    lost = _lost_message(_notify(AFTER_ERROR))
    if failed := _failed():
        exit_now(_report(min(failed), AFTER_ERROR))
    if lost or any(word in str(error).lower() for word in CONNECTION):
        _print(lost or f"error: the connection to another process broke{HINT}")
    else:
        traceback.print_exception(error)
    exit_now(1)


def _lost_message(processes: set[int]) -> str:
    """Returns the error line for lost processes, an empty string for none."""
    if len(processes) < 2:
        return "".join(f"error: process {process} is gone{HINT}" for process in processes)
    return f"error: processes {', '.join(map(str, sorted(processes)))} are gone{HINT}"


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _stop_listening(listener: threading.Thread) -> None:
    """Ends the listener at an ordinary exit: Python cannot exit while the listener waits for a notice."""
    _set(ACKNOWLEDGED, global_state.process_id)
    _set(DONE, global_state.process_id)
    _set(NOTICE, global_state.process_id, "")
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
