"""The sums of several batches."""

import json

import jax.numpy as jnp
import pytest

from symbert_jax.errors import UserError
from symbert_jax.train.window import Window

STEPS = [  # (sum, count) of each metric in four steps; the third has nothing to predict
    {"loss": (0.1 * i, 4 * i), "accuracy": (i, 4 * i), "grad_norm": (i / 3, i > 0)} for i in (1, 2, 0, 3)
]


def filled(window: Window, steps: list[dict[str, tuple[float, float]]]) -> Window:
    """Adds the sums of these steps to the window, and returns it."""
    for step in steps:
        window.add({name: (jnp.float32(total), jnp.float32(count)) for name, (total, count) in step.items()})
    return window


def test_averages_divide_every_sum_by_its_count() -> None:
    window = filled(Window("train"), STEPS)
    window.add({"loss": (jnp.float32(1), jnp.float32(4)), "next_sentence": (jnp.float32(1), jnp.float32(2))})
    assert window.averages(5) == {
        "train/loss": pytest.approx(1.6 / 28),
        "train/accuracy": pytest.approx(6 / 24),
        "train/grad_norm": pytest.approx(2 / 3),
        "train/next_sentence": 0.5,
    }
    assert window.empty_batches == 1 and not window.last
    window.clear()
    assert window.averages(5) == {} and window.empty_batches == 0
    assert filled(window, STEPS[2:3]).averages(6) == {} and window.empty_batches == 1


def test_window_continues_from_saved_sums_with_the_same_bits() -> None:
    whole = filled(Window("train"), STEPS)
    for cut in range(len(STEPS)):
        saved = json.loads(json.dumps(filled(Window("train"), STEPS[:cut]).to_save(cut)))
        resumed = filled(Window("train", saved), STEPS[cut:])
        assert list(resumed.averages(4).items()) == list(whole.averages(4).items())
        assert resumed.empty_batches == whole.empty_batches


def test_window_continues_from_sums_of_earlier_versions() -> None:
    whole, before = filled(Window("train"), STEPS).averages(4), filled(Window("train"), STEPS[:3]).to_save(3)
    # In the first three of STEPS, 1 + 2 of 4 + 8 predictions are correct.
    earlier = {"loss": before["loss/sum"], "correct": 3.0, "count": 12.0, "steps": 3.0, "empty": 1.0}
    resumed = filled(Window("train", earlier | {"grad_norm": before["grad_norm/sum"]}), STEPS[3:])
    assert resumed.averages(4) == whole and resumed.empty_batches == 1


@pytest.mark.parametrize("read", ["averages", "to_save"])
def test_window_rejects_sums_that_are_not_finite(read: str) -> None:
    window = filled(Window("validation"), [*STEPS, {"grad_norm": (float("inf"), 1.0), "loss": (float("nan"), 1.0)}])
    with pytest.raises(UserError, match="validation/loss: found nan at step 7, wanted a finite number"):
        getattr(window, read)(7)
