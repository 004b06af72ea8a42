"""The sums between two log points."""

import json

import jax.numpy as jnp
import pytest

from symbert_jax.train.window import Window

SUMS = [
    {"loss": 0.1 * i, "correct": i, "count": 4 * i, "grad_norm": i / 3} for i in (1, 2, 0, 3)
]  # the third had nothing to predict


def filled(window: Window, sums: list[dict[str, float]]) -> Window:
    for step in sums:
        window.add({name: jnp.float32(value) for name, value in step.items()})
    return window


def test_averages_weigh_every_token_the_same_and_leave_empty_steps_out() -> None:
    window = filled(Window({}), SUMS)
    assert window.averages() == {
        "train/loss": pytest.approx(0.6 / 24),
        "train/accuracy": pytest.approx(6 / 24),
        "train/grad_norm": pytest.approx(2 / 3),
        "train/empty_steps": 1,
    }
    window.clear()
    assert window.total() == {} and not window.last
    assert filled(window, SUMS[2:3]).averages() == {"train/empty_steps": 1}


def test_saved_window_goes_on_with_the_same_bits() -> None:
    whole = filled(Window({}), SUMS).averages()
    for cut in range(len(SUMS)):
        saved = json.loads(json.dumps(filled(Window({}), SUMS[:cut]).total()))
        assert filled(Window(saved), SUMS[cut:]).averages() == whole
