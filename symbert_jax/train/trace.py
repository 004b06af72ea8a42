"""A trace of a few training steps, which xprof and TensorBoard's profile plugin open: WORKDIR/profile."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath


class Trace(contextlib.AbstractContextManager["Trace"]):
    """Traces the steps FIRST:LAST of `train.profile_steps`; every process writes the trace of its own devices."""

    def __init__(self, workdir: epath.Path, steps: str):
        first, last = map(int, steps.split(":")) if steps else (0, -1)
        self.folder, self.wanted, self.running = workdir / "profile", range(first, last + 1), False

    def __exit__(self, *_: object) -> None:
        if self.running:
            jax.profiler.stop_trace()
            self.running = False

    @contextlib.contextmanager
    def step(self, number: int, before: Any) -> Iterator[None]:
        """Around step `number`; the trace starts and ends when the arrays `before` of the step before are there."""
        if self.running != (number in self.wanted):
            jax.block_until_ready(before)
            if self.running:
                self.__exit__()
            else:
                jax.profiler.start_trace(self.folder)
                self.running = True
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield
