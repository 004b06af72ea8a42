"""How the processes of a run end together: where one is gone or fails alone, the others say so in one line and end.

JAX ends them too, but with pages of C++, and on devices that do not notice only after `--lost_after` seconds.
Processes exchange keys through the store that process 0 serves for JAX: `call/I` tells process I that another one ends,
which and why; `here/I` says that process I knows and will end too; `left/I` that it does nothing more.
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

from jax._src.distributed import global_state
from jax.errors import JaxRuntimeError

from symbert_jax.distributed import stderr_filter

CALL, HERE, LEFT = (f"symbert_jax/{what}/" for what in ("call", "here", "left"))
PATIENCE = 5.0  # seconds in which a process that runs answers a call
DAY = 86_400_000  # milliseconds
FAILED = "ended with an error, which it names"
AGAIN = "; start the same command again"
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # what asks a run to end
BROKEN = ("gloo", "nccl", "connection", "socket", "unavailable", "deadline", "cancelled")  # of errors between processes

before_end = contextlib.ExitStack()  # what is done even where the stack is not unwound
_ending = threading.Lock()  # held by the thread that ends this process
_watching = False
_filter: subprocess.Popen | None = None


def watch() -> None:
    """From now on this process, one of several that JAX has connected, ends where another one does."""
    global _watching
    _watching, sys.excepthook = True, _end_after
    listener = threading.Thread(target=_listen, daemon=True)
    listener.start()
    atexit.register(_take_leave, listener)
    libc = ctypes.CDLL(None)  # JAX may abort this process first: as exit code 6, without its memory on the disk
    libc.signal(signal.SIGABRT, libc._exit)
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "0":  # with which all that XLA says is wanted
        _filter_stderr()


@contextlib.contextmanager
def fail_together() -> Iterator[None]:
    """Ends this process where an error inside may come from a process that is gone: to unwind could wait for it."""
    try:
        yield
    except JaxRuntimeError as error:
        if _watching and "RESOURCE_EXHAUSTED" not in str(error):  # which every process meets
            _end_after_jax(error)
        raise


def leave(code: int) -> None:
    """To be called at the end of a command with its exit code; returns where all went well or this process is alone.

    Where one of several failed, it tells the others, unless they have come to their end too, and ends.
    """
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)  # what there was to save is saved
    if code and _watching:
        _ending.acquire()
        _set(HERE, global_state.process_id)
        if _missing():
            _call(FAILED)
        end(code)


def end_at_once(code: int, line: str, why: str) -> NoReturn:
    """Ends this process with a line on stderr; the others of its run say `why`, and end."""
    _ending.acquire()
    _say(line)
    if _watching:
        _call(why)
    end(code)


def end(code: int) -> NoReturn:
    """Ends this process without unwinding its stack; process 0, which serves the keys, outlives those that know."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    with contextlib.suppress(Exception):
        before_end.close()
    if _watching:
        _set(LEFT, global_state.process_id)
        until = time.monotonic() + PATIENCE
        while global_state.process_id == 0 and _those(HERE) - _those(LEFT) and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.2 * (global_state.process_id == 0))
    os._exit(code)


def _listen() -> None:
    """Ends this process when another one calls it."""
    call = None
    while call is None:
        try:
            call = _store().blocking_key_value_get(f"{CALL}{global_state.process_id}", DAY)
        except JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                _ending.acquire()
                _say(_gone({0}))
                os._exit(1)
    if call:
        _ending.acquire()
        _set(HERE, global_state.process_id)
        caller, why = call.split(maxsplit=1)
        _say(_gone(_missing()) or f"error: process {caller} {why}{AGAIN}")
        end(1)


def _call(why: str) -> set[int]:
    """Tells all others that this process ends; returns those that do not answer."""
    _set(HERE, global_state.process_id)
    for process in range(global_state.num_processes):
        if process != global_state.process_id:
            _set(CALL, process, f"{global_state.process_id} {why}")
    return _missing()


def _missing() -> set[int]:
    """The processes that do not say within `PATIENCE` that they know of an end."""
    until, everyone = time.monotonic() + PATIENCE, set(range(global_state.num_processes))
    try:
        while (missing := everyone - _those(HERE)) and time.monotonic() < until:
            time.sleep(0.05)
    except JaxRuntimeError:
        return {0}
    return missing


def _store() -> Any:
    return global_state.client


def _set(what: str, process: int, value: str = "-") -> None:
    with contextlib.suppress(JaxRuntimeError):  # process 0 is gone
        _store().key_value_set(f"{what}{process}", value, allow_overwrite=True)


def _those(what: str) -> set[int]:
    return {int(key.rsplit("/", 1)[1]) for key, _ in _store().key_value_dir_get(what)}


def _end_after(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ends a process that failed: an ordinary exit would wait for the others, and they for it."""
    if isinstance(error, JaxRuntimeError):
        _end_after_jax(error)
    sys.__excepthook__(kind, error, trace)
    leave(1)


def _end_after_jax(error: JaxRuntimeError) -> NoReturn:
    _ending.acquire()
    gone = _gone(_call(FAILED))
    if gone or any(word in str(error).lower() for word in BROKEN):
        _say(gone or f"error: the connection to another process broke{AGAIN}")
    else:
        traceback.print_exception(error)
    end(1)


def _gone(processes: set[int]) -> str:
    if len(processes) < 2:
        return "".join(f"error: process {process} is gone{AGAIN}" for process in processes)
    return f"error: processes {', '.join(map(str, sorted(processes)))} are gone{AGAIN}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _take_leave(listener: threading.Thread) -> None:
    """At an ordinary exit: tells the others, and ends the listener, in which Python could not end."""
    for what, value in ((HERE, "-"), (LEFT, "-"), (CALL, "")):
        _set(what, global_state.process_id, value)
    listener.join(PATIENCE)


def _filter_stderr() -> None:
    """Lets `stderr_filter` read what this process writes to stderr, XLA's messages included."""
    global _filter
    reading, writing = os.pipe()
    command = [sys.executable, "-I", "-S", stderr_filter.__file__]
    with contextlib.suppress(OSError):  # no process to spare: the messages stay as they are
        _filter = subprocess.Popen(command, stdin=reading, stdout=subprocess.DEVNULL, start_new_session=True)
        os.dup2(writing, 2)
    os.close(reading)
    os.close(writing)
