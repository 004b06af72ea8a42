"""Traces a few training steps to WORKDIR/profile, for xprof and TensorBoard's profile plugin."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath


class Trace(contextlib.AbstractContextManager["Trace"]):
    """Traces some steps; every process writes the trace of its own devices."""

    def __init__(self, workdir: epath.Path, steps: str):
        """steps: FIRST:LAST, both included; empty for none."""
        first, last = map(int, steps.split(":")) if steps else (0, -1)
        self.folder, self.steps, self.is_running = workdir / "profile", range(first, last + 1), False

    def __exit__(self, *_: object) -> None:
        if self.is_running:
            jax.profiler.stop_trace()
            self.is_running = False

    @contextlib.contextmanager
    def step(self, number: int, previous: Any) -> Iterator[None]:
        """Marks step `number`. Waits for the arrays of the `previous` step before it starts or stops the trace."""
        if self.is_running != (number in self.steps):
            jax.block_until_ready(previous)
            if self.is_running:
                self.__exit__()
            else:
                jax.profiler.start_trace(self.folder)
                self.is_running = True
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield
