"""Traces of training steps."""

import contextlib
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from etils import epath

from symbert_jax.train.trace import Trace


@pytest.mark.parametrize(("steps", "stops_in", "traced"), [("2:3", None, [2, 3]), ("3:9", 4, [3, 4])])
def test_trace_has_the_requested_steps(steps: str, stops_in: int | None, traced: list[int], tmp_path: Path) -> None:
    """The trace ends with the last requested step, or with the step in which the run ends."""
    square, sums = jax.jit(jnp.square), jnp.ones(4)
    with contextlib.suppress(KeyboardInterrupt), Trace(epath.Path(tmp_path), steps) as trace:
        for number in range(1, 6):
            with trace.step(number, previous=sums):
                sums = square(sums)
            if number == stops_in:
                raise KeyboardInterrupt
    (file,) = (tmp_path / "profile").rglob("*.xplane.pb")
    lines = (line for plane in jax.profiler.ProfileData.from_file(str(file)).planes for line in plane.lines)
    events = [event for line in lines for event in line.events if event.name == "train"]
    assert sorted(dict(event.stats)["step_num"] for event in events) == traced


def test_no_trace_without_requested_steps(tmp_path: Path) -> None:
    with Trace(epath.Path(tmp_path), "") as trace, trace.step(1, previous=()):
        pass
    assert not list(tmp_path.iterdir())
