"""Signals that ask a run to end: it saves first, and no signal is lost or shows a traceback."""

import collections
import ctypes
import os
import signal
import sys
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils

from symbert_jax.distributed.shutdown import STOPS, end_at_once

HANDLED = 128  # marks the bytes of Python's handler among those of the signals


class Stop:
    """Handles SIGTERM, Ctrl-C and SIGHUP for as long as the context lasts; those that are ignored stay so (`nohup`).

    Until a step is done, a signal ends the process: there is nothing to save. Then the first one asks for a checkpoint,
    a second one is told so, and a third one ends the process at once. A thread reads the signals, so that they work
    while the main thread waits for devices or a compiler.
    """

    def __init__(self) -> None:
        self.received = ""  # the name of the first signal
        self.has_trained = False
        self.count = 0

    def __enter__(self) -> "Stop":
        self.jax_handler = ctypes.create_string_buffer(1024)  # a struct sigaction, of which Python knows nothing
        _sigaction(None, self.jax_handler)
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.writing, False)
        self.wakeup = signal.set_wakeup_fd(self.writing, warn_on_full_buffer=False)
        taken = [number for number in STOPS if signal.getsignal(number) is not signal.SIG_IGN]
        self.before = {number: signal.signal(number, self._handle) for number in taken}
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if jax.distributed.is_initialized():
            _sigaction(self.jax_handler, None)
        signal.set_wakeup_fd(self.wakeup)
        os.write(self.writing, bytes([0]))
        self.listener.join()
        os.close(self.reading)
        os.close(self.writing)

    def agreed(self, step: int) -> str:
        """The signal's name if all processes are to stop after this step, else nothing: the same on all of them.

        step: the steps since the start of this process; to be asked after each. Costs nothing before a signal.
        """
        self.has_trained = True
        if not jax.distributed.is_initialized():
            return self.received
        return (self.received or "SIGTERM") if multihost_utils.reached_preemption_sync_point(step) else ""

    def _handle(self, number: int, _: FrameType | None) -> None:
        """Tells the listener of a signal that came while a library (uvloop) had its own wakeup descriptor."""
        os.write(self.writing, bytes([number | HANDLED]))

    def _listen(self) -> None:
        """Notes every signal once, though most come twice: from the interpreter at once, later from the handler."""
        awaited: collections.Counter[int] = collections.Counter()
        while byte := os.read(self.reading, 1)[0]:
            number = byte & ~HANDLED
            if not byte & HANDLED:
                awaited[number] += 1
            elif awaited[number]:
                awaited[number] -= 1
                continue
            if number in self.before:
                self._note(signal.Signals(number))

    def _note(self, received: signal.Signals) -> None:
        self.count += 1
        name, code, why = received.name, 128 + received, f"was ended by {received.name}"
        if not self.has_trained:
            end_at_once(code, f"error: ended by {name} before the first step; nothing is lost", why)
        if self.count == 1:
            self.received = name
            if jax.distributed.is_initialized():
                self._tell_jax()
        elif self.count == 2:
            print(f"{name}: the run is saving already; a third signal ends it at once", file=sys.stderr, flush=True)
        else:
            line = f"error: ended by {name}, the third signal; the same command goes on from the last checkpoint"
            end_at_once(code, line, why)

    def _tell_jax(self) -> None:
        """Hands SIGTERM to JAX, which agrees with the other processes on the step after which all stop."""
        ours = ctypes.create_string_buffer(1024)
        _sigaction(self.jax_handler, ours)
        signal.raise_signal(signal.SIGTERM)
        _sigaction(ours, None)


def _sigaction(new: ctypes.Array | None, old: ctypes.Array | None) -> None:
    """The handler of SIGTERM as the system knows it: JAX's is not Python's."""
    ctypes.CDLL(None).sigaction(signal.SIGTERM, new, old)
