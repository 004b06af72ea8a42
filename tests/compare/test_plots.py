"""Lines, labels and the choice of plots."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from symbert_jax.compare.plots import (
    COLORS,
    NEUTRAL,
    average_line,
    format_count,
    loss_plots,
    plot_losses,
    reference_lines,
    run_lines,
    shorten,
    spread,
    training_plots,
)
from symbert_jax.compare.reference import Reference
from symbert_jax.compare.runs import RunCurve
from tests.compare.conftest import configure_attention

STANDARD, SYMMETRIC, PAIRWISE = ("standard", "symmetric", "pairwise")


def make_run(attention: str = STANDARD, name: str = "run", **metrics: dict[int, float]) -> RunCurve:
    """Returns a run with a validation loss and more metrics, in whose names __ stands for /."""
    values = {"validation__loss": {10: 5.0, 20: 4.0}} | metrics
    return RunCurve(name, configure_attention(attention), {key.replace("__", "/"): values[key] for key in values})


def make_reference(last: int, tokens_per_step: int | None = 32) -> Reference:
    curves = {PAIRWISE: {5: 5.0, 15: 4.5, last: 3.0}, "other": {5: 6.0, last: 4.0}}
    return Reference("ours", "our curves", curves, tokens_per_step)


def test_lines_have_the_colors_of_attentions_where_these_differ() -> None:
    lines = run_lines([make_run(attention) for attention in (PAIRWISE, STANDARD, STANDARD, SYMMETRIC)])
    assert [line.color for line in lines] == [COLORS[2], COLORS[0], COLORS[0], COLORS[1]]
    assert lines[0].dashes == lines[1].dashes == lines[3].dashes == () != lines[2].dashes
    assert run_lines([make_run(PAIRWISE)]) == [lines[0]]
    assert [line.color for line in run_lines([make_run("uniform"), make_run()])] == [COLORS[3], COLORS[0]]
    assert [line.color for line in run_lines([make_run(PAIRWISE)] * 8)] == [*COLORS, *COLORS[:2]]
    assert len(set(run_lines([make_run(PAIRWISE)] * 8))) == 8


def test_lines_of_a_reference_have_the_colors_of_runs_with_their_attention() -> None:
    reference = make_reference(20)
    assert [line.color for line in reference_lines(reference, [make_run()])] == [COLORS[2], NEUTRAL]
    assert [line.color for line in reference_lines(reference, [make_run()] * 2)] == [NEUTRAL] * 2
    assert len(set(reference_lines(reference, [make_run()] * 2))) == 2


def test_plots_leave_out_metrics_that_no_run_has() -> None:
    titles = ["Validation loss (nats) over steps", "Validation loss (nats) over tokens"]
    assert [plot.title for plot in loss_plots([make_run()], None)] == titles and not training_plots([make_run()])
    runs = [make_run(), make_run(train__loss={10: 5.0}, train__grad_norm={10: 1.0}, data__other={10: 1.0})]
    titles += ["Training loss (nats) over steps", "Training loss (nats) over tokens"]
    assert [plot.title for plot in loss_plots(runs, None)] == titles
    assert [plot.title for plot in training_plots(runs)] == ["Gradient norm before clipping"]


def test_losses_of_the_moving_average_are_drawn_dashed_in_the_color_of_the_run() -> None:
    averaged = make_run(PAIRWISE, validation__ema_loss={10: 4.5, 20: 3.5})
    for plot, other in zip(loss_plots([averaged], None), loss_plots([make_run(PAIRWISE)], None), strict=True):
        drawn, alone = (each.svg.count(f"stroke: {COLORS[2]}") for each in (plot, other))
        assert drawn == 2 * alone and "stroke-dasharray: 2,2" in plot.svg and "stroke-dasharray" not in other.svg
    lines = run_lines([averaged, averaged, make_run()])
    assert len({average_line(line) for line in lines} | {*lines}) == 6


def test_reference_is_drawn_behind_runs_of_similar_length_and_else_apart() -> None:
    steps, tokens = "Validation loss (nats) over steps", "Validation loss (nats) over tokens"
    behind = loss_plots([make_run()], make_reference(400))
    assert [plot.title for plot in behind] == [steps, tokens]
    assert all(COLORS[0] in plot.svg and COLORS[2] in plot.svg for plot in behind)
    apart_titles = [steps, "Validation loss (nats) of our curves over steps", tokens]
    apart_titles += ["Validation loss (nats) of our curves over tokens"]
    apart = loss_plots([make_run()], make_reference(401))
    assert [plot.title for plot in apart] == apart_titles
    assert [(COLORS[0] in plot.svg, COLORS[2] in plot.svg) for plot in apart] == [(True, False), (False, True)] * 2
    unknown_tokens = loss_plots([make_run()], make_reference(20, None))
    assert [COLORS[2] in plot.svg for plot in unknown_tokens] == [True, False]


def test_picture_takes_odd_names_and_values() -> None:
    """Warnings are errors here; matplotlib's fonts lack some of these characters."""
    runs = [
        make_run(STANDARD, "_$x^{|\u65e5\u672c\U0001f600", validation__loss={10: 5.0}),
        make_run(PAIRWISE, "long/" * 40, validation__loss={0: 5.0, 2**62: 1e200}),
        *(make_run(name=f"run{number}", validation__loss={10: 1.0, 20: 1.0}) for number in range(40)),
    ]
    assert plot_losses(runs, make_reference(2**62)).startswith(b"\x89PNG")
    assert plot_losses(runs[:1], make_reference(2**62)).startswith(b"\x89PNG")
    assert all("<svg" in plot.svg for plot in loss_plots(runs[:2], make_reference(2**62)))


@given(st.lists(st.floats(0, 10), min_size=1, max_size=9))
def test_spread_keeps_order_and_gaps(values: list[float]) -> None:
    order = np.argsort(values, kind="stable")
    spread_out = np.array(spread(values, 1.0, 0.0, 10.0))[order]
    assert (np.diff(spread_out) >= 1 - 1e-9).all() and spread_out[0] >= 0 and spread_out[-1] <= 10 + 1e-9


def test_spread_moves_values_as_little_as_possible() -> None:
    assert spread([5.0, 1.0], 1.0, 0.0, 10.0) == [5, 1]
    assert spread([5.2, 5.0, 9.0], 1.0, 0.0, 10.0) == pytest.approx([5.6, 4.6, 9])
    assert spread([0.0, 0.0], 1.0, 0.0, 10.0) == [0, 1] and spread([10.0, 10.0], 1.0, 0.0, 10.0) == [9, 10]
    assert spread([1.0, 1.0, 1.0], 1.0, 0.0, 1.0) == [0, 1, 2], "too many for the space: they exceed its upper end"


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.0, "0"), (250.0, "250"), (2e5, "200,000"), (1.5e6, "1.5M"), (26e9, "26B"), (3e12, "3T"), (1e300, "1e+300")],
)
def test_format_count_is_short(number: float, text: str) -> None:
    assert format_count(number) == text


def test_shorten_keeps_both_ends_of_a_name() -> None:
    assert shorten("a" * 32) == "a" * 32
    assert shorten("a" * 20 + "b" * 20) == "a" * 15 + "…" + "b" * 15
