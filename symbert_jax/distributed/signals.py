"""Signals that stop a run: the run saves first, and no signal is lost or prints a traceback."""

import collections
import ctypes
import os
import signal
import sys
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils

from symbert_jax.distributed.shutdown import STOP_SIGNALS, notify_and_exit

HANDLED = 128  # a flag in the bytes that `_handle` writes; the bytes that the interpreter writes do not have it
SIGACTION_BYTES = 1024  # more than a C `struct sigaction`, whose size Python does not know


class Stop:
    """Handles SIGTERM, Ctrl-C and SIGHUP while the context lasts, except signals that are ignored (`nohup`).

    Before the end of the first step, a signal ends the process: there is nothing to save. After that, the first signal
    asks for a checkpoint, the second prints that the run is saving, and the third ends the process at once. A thread
    reads the signals, so that they work while the main thread waits for devices or a compiler.
    """

    def __init__(self) -> None:
        self.received = ""  # the name of the first signal
        self.has_trained = False  # whether the first step has ended
        self.count = 0  # the number of signals received

    def __enter__(self) -> "Stop":
        self.jax_handler = ctypes.create_string_buffer(SIGACTION_BYTES)
        _sigaction(None, self.jax_handler)
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.writing, False)
        self.old_wakeup_fd = signal.set_wakeup_fd(self.writing, warn_on_full_buffer=False)
        handled = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        self.old_handlers = {number: signal.signal(number, self._handle) for number in handled}
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.old_handlers.items():
            signal.signal(number, handler)
        if jax.distributed.is_initialized():
            _sigaction(self.jax_handler, None)
        signal.set_wakeup_fd(self.old_wakeup_fd)
        os.write(self.writing, bytes([0]))
        self.listener.join()
        os.close(self.reading)
        os.close(self.writing)

    def should_stop(self, step: int) -> str:
        """Returns the name of a signal if all processes must stop after this step, otherwise an empty string.

        The name is that of the first signal to this process, SIGTERM if only another process got one. Call after each
        step. Costs nothing before a signal.

        step: the number of steps since the start of this process.
        """
        self.has_trained = True
        if not jax.distributed.is_initialized():
            return self.received
        return (self.received or "SIGTERM") if multihost_utils.reached_preemption_sync_point(step) else ""

    def _handle(self, number: int, _: FrameType | None) -> None:
        """Passes the signal to the listener, also while a library (uvloop) has replaced the wakeup descriptor."""
        os.write(self.writing, bytes([number | HANDLED]))

    def _listen(self) -> None:
        """Counts each signal once, although most arrive twice: first from the interpreter, later from the handler."""
        unhandled: collections.Counter[int] = collections.Counter()  # signals whose bytes from `_handle` are still due
        while byte := os.read(self.reading, 1)[0]:
            number = byte & ~HANDLED
            if not byte & HANDLED:
                unhandled[number] += 1
            elif unhandled[number]:
                unhandled[number] -= 1
                continue
            if number in self.old_handlers:
                self._respond(signal.Signals(number))

    def _respond(self, received: signal.Signals) -> None:
        self.count += 1
        name, code, why = received.name, 128 + received, f"was ended by {received.name}"
        if not self.has_trained:
            notify_and_exit(code, f"error: ended by {name} before the first step; nothing is lost", why)
        if self.count == 1:
            self.received = name
            if jax.distributed.is_initialized():
                self._raise_in_jax()
        elif self.count == 2:
            print(f"{name}: the run is saving already; a third signal ends it at once", file=sys.stderr, flush=True)
        else:
            line = f"error: ended by {name}, the third signal; the same command resumes from the last checkpoint"
            notify_and_exit(code, line, why)

    def _raise_in_jax(self) -> None:
        """Raises SIGTERM for JAX's own handler, so that all processes agree on the step after which they stop."""
        own_handler = ctypes.create_string_buffer(SIGACTION_BYTES)
        _sigaction(self.jax_handler, own_handler)
        signal.raise_signal(signal.SIGTERM)
        _sigaction(own_handler, None)


def _sigaction(new: ctypes.Array | None, old: ctypes.Array | None) -> None:
    """Sets or reads the handler of SIGTERM. JAX's handler is a C function, which the `signal` module cannot return."""
    ctypes.CDLL(None).sigaction(signal.SIGTERM, new, old)
