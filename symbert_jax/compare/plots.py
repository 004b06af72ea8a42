"""Plots of the curves of runs: loss.png, and the plots of the page.

A run is drawn as the same line in all plots. A reference is drawn thinly behind the runs or, if the runs are far
shorter, in a plot of its own.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from scipy.optimize import isotonic_regression

from symbert_jax import render
from symbert_jax.checkpoint import LOSS
from symbert_jax.compare.reference import Reference
from symbert_jax.compare.runs import SPEED, RunCurve
from symbert_jax.config import ATTENTIONS

# The colours of Okabe and Ito, distinct with any kind of colour vision; in this order, on white and on black.
COLORS = ("#0072b2", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#e69f00")
NEUTRAL = "#8c8c8c"
DASHES = ((), (4.0, 1.5), (1.0, 1.2), (6.0, 1.5, 1.0, 1.5))  # lengths of dashes and gaps, in widths of the line
WIDTH, THIN = 1.8, 1.0  # points: validation losses of runs; references, and metrics that are noisier
MIN_SHARE = 0.05  # Runs that are shorter, as a fraction of the reference, would be squeezed into a corner of it.
MAX_LABEL = 32  # characters of a name at the end of a curve
STYLE: Any = {  # the keys are not plain strings to a type checker
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.xmargin": 0,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "lines.solid_capstyle": "round",
}


class Line(NamedTuple):
    color: str
    dashes: tuple[float, ...]  # empty: solid
    width: float  # in points


class Curve(NamedTuple):
    name: str
    line: Line
    points: list[tuple[float, float]]


class Plot(NamedTuple):
    title: str
    svg: str  # an element for a page of HTML


def run_lines(runs: Sequence[RunCurve]) -> list[Line]:
    """Returns the line of each run. Where the runs differ in their attention, its colour is that of the attention."""
    attentions = [run.config.model.attention for run in runs]
    if _has_attention_colors(runs):
        colored = list(dict.fromkeys((*ATTENTIONS, *attentions)))  # controls come after the variants of the paper
        return _lines([COLORS[colored.index(attention) % len(COLORS)] for attention in attentions], WIDTH)
    return distinct_lines(len(runs))


def distinct_lines(count: int) -> list[Line]:
    """Returns lines that differ in colour, or if there are many, in colour or dashes."""
    return _lines([COLORS[number % len(COLORS)] for number in range(count)], WIDTH)


def average_name(run: RunCurve) -> str:
    return f"{run.name} (average)"


def average_line(line: Line) -> Line:
    """Returns the line of the moving average of a run's parameters: thin and dashed, in the colour of the run."""
    return Line(line.color, (2.0, 2.0, *line.dashes), THIN)


def reference_lines(reference: Reference, runs: Sequence[RunCurve]) -> list[Line]:
    """Returns the line of each curve of a reference. Where the colours of the runs are those of attentions, a curve
    with the name of an attention has its colour; all others are grey."""
    colored = ATTENTIONS if _has_attention_colors(runs) else ()
    names = reference.curves
    return _lines([COLORS[colored.index(name) % len(COLORS)] if name in colored else NEUTRAL for name in names], THIN)


def plot_losses(runs: Sequence[RunCurve], reference: Reference | None) -> bytes:
    """Returns a PNG of validation loss over steps, with a name at the end of each curve."""
    curves = _run_curves(runs, LOSS)
    behind, apart = _place_reference(curves, _reference_curves(reference, runs))
    panels = [("Validation loss (nats)", behind + curves)]
    if reference and apart:
        panels.append((f"Validation loss of {shorten(reference.title)}", apart))
    widths = [6.2] if len(panels) == 1 else [4.4, 3.2]  # inches, without labels; a character of a label takes 0.075
    width = sum(widths) + 0.075 * sum(max(len(_end_label(curve)) for curve in curves) for _, curves in panels)
    height = max(4.2, 1 + 0.18 * max(len(curves) for _, curves in panels))  # inches; a label takes 0.17
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(width, height), layout="constrained")
        all_axes = figure.subplots(1, len(panels), squeeze=False, width_ratios=widths)[0]
        for axes, (title, curves) in zip(all_axes, panels, strict=True):
            draw(axes, curves)
            axes.set(title=title, xlabel="step")
        figure.draw_without_rendering()  # fixes the heights of the axes
        for axes, (_, curves) in zip(all_axes, panels, strict=True):
            label_ends(axes, curves)
        return render.to_png(figure)


def loss_plots(runs: Sequence[RunCurve], reference: Reference | None) -> list[Plot]:
    """Returns validation and training loss, each over steps and over tokens, as far as the runs have them."""
    plots = []
    for metric, name in ((LOSS, "Validation loss"), ("train/loss", "Training loss")):
        for by_tokens, unit in ((False, "steps"), (True, "tokens")):
            curves = _run_curves(runs, metric, by_tokens)
            drawn = _reference_curves(reference, runs, by_tokens) if metric == LOSS else []
            behind, apart = _place_reference(curves, drawn)
            plots.append(_plot(f"{name} (nats) over {unit}", behind + curves))
            if reference:
                plots.append(_plot(f"{name} (nats) of {reference.title} over {unit}", apart))
    return [plot for plot in plots if plot]


def training_plots(runs: Sequence[RunCurve]) -> list[Plot]:
    """Returns learning rate, gradient norm and speed over steps, as far as the runs have them."""
    plots = (
        _plot("Learning rate", _run_curves(runs, "train/learning_rate")),
        _plot("Gradient norm before clipping", _run_curves(runs, "train/grad_norm")),
        _plot("Tokens per second", _run_curves(runs, SPEED), format_count),
    )
    return [plot for plot in plots if plot]


def _has_attention_colors(runs: Sequence[RunCurve]) -> bool:
    return len(runs) == 1 or len({run.config.model.attention for run in runs}) > 1


def _lines(colors: Sequence[str], width: float) -> list[Line]:
    """Returns lines of these colours. Lines of the same colour differ in their dashes."""
    return [Line(color, DASHES[colors[:i].count(color) % len(DASHES)], width) for i, color in enumerate(colors)]


def _run_curves(runs: Sequence[RunCurve], metric: str, by_tokens: bool = False) -> list[Curve]:
    """Returns the values of a metric over steps or tokens, for each run that has it.

    The validation losses of a run are followed by those of the moving average of its parameters.
    """
    width = WIDTH if metric == LOSS else THIN
    curves = []
    for run, line in zip(runs, run_lines(runs), strict=True):
        x = run.tokens_until if by_tokens else float
        if metric in run.metrics:
            curves.append(_curve(run.name, line._replace(width=width), run.metrics[metric], x))
        if metric == LOSS and run.average_losses:
            curves.append(_curve(average_name(run), average_line(line), run.average_losses, x))
    return curves


def _reference_curves(reference: Reference | None, runs: Sequence[RunCurve], by_tokens: bool = False) -> list[Curve]:
    """Returns the curves over steps or tokens; none without a reference, or if its number of tokens is unknown."""
    scale = reference and (reference.tokens_per_step if by_tokens else 1)
    if not reference or not scale:
        return []
    curves = zip(reference.labels, reference_lines(reference, runs), reference.curves.values(), strict=True)
    return [_curve(label, line, values, lambda step: step * scale) for label, line, values in curves]


def _curve(name: str, line: Line, values: dict[int, float], x: Callable[[int], float]) -> Curve:
    return Curve(name, line, [(float(x(step)), value) for step, value in sorted(values.items())])


def _place_reference(curves: list[Curve], reference: list[Curve]) -> tuple[list[Curve], list[Curve]]:
    """Returns the curves of a reference to draw behind `curves`, cut to their range, and those to draw apart."""
    if not reference:
        return [], []
    steps = [x for curve in curves for x, _ in curve.points]
    if max(steps) < MIN_SHARE * max(curve.points[-1][0] for curve in reference):
        return [], reference
    cut = [[point for point in curve.points if min(steps) <= point[0] <= max(steps)] for curve in reference]
    return [curve._replace(points=points) for curve, points in zip(reference, cut, strict=True) if points], []


def _plot(title: str, curves: list[Curve], format_y: Callable[[float], str] | None = None) -> Plot | None:
    """Returns a plot of curves, None if there are none.

    format_y: formats the numbers at the y axis; None: with as many decimals as they need.
    """
    if not curves:
        return None
    with plt.rc_context(STYLE | render.PAGE_STYLE):
        figure, axes = plt.subplots(figsize=(5, 2.8), layout="constrained")
        draw(axes, curves)
        if format_y:
            axes.yaxis.set_major_formatter(lambda y, _: format_y(y))
        return Plot(title, render.to_svg(figure, title))


def draw(axes: Axes, curves: Sequence[Curve]) -> None:
    """Draws curves over steps or tokens."""
    for _, line, points in curves:
        style = (0, line.dashes) if line.dashes else "-"
        marker = "o" if len(points) == 1 else None  # a line through one point is invisible
        xs, ys = zip(*points, strict=True)
        axes.plot(xs, ys, color=line.color, linestyle=style, linewidth=line.width, marker=marker)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 2.5, 5, 10), integer=True))
    axes.xaxis.set_major_formatter(lambda x, _: format_count(x))


def _end_label(curve: Curve) -> str:
    """Returns the name and the last value of a curve."""
    return f"{shorten(curve.name)}  {curve.points[-1][1]:#.3g}"


def label_ends(axes: Axes, curves: Sequence[Curve]) -> None:
    """Writes the label of each curve to the right of the axes, near the end of the curve."""
    size, dpi = plt.rcParams["font.size"], axes.figure.get_dpi()
    low, high = axes.get_ylim()
    line_height = 1.35 * size * dpi / 72 / axes.bbox.height * (high - low)
    ends = [curve.points[-1] for curve in curves]
    ys = spread([y for _, y in ends], line_height, low + line_height / 2, high)
    for curve, end, y in zip(curves, ends, ys, strict=True):
        leader = {"arrowstyle": "-", "color": curve.line.color, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 1}
        axes.annotate(
            _end_label(curve),
            end,
            (1.04, y),
            textcoords=axes.get_yaxis_transform(),
            color=curve.line.color,
            verticalalignment="center",
            annotation_clip=False,
            arrowprops=leader | {"relpos": (0, 0.5)},
        )


def spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Returns numbers in the same order, at least `gap` apart, and otherwise as close to `values` as possible.

    They are from `low` to `high`, or exceed `high` if these are too close.
    """
    order, offsets = np.argsort(values, kind="stable"), gap * np.arange(len(values))
    fitted = isotonic_regression(np.array(values)[order] - offsets).x
    spread_out = np.empty(len(values))
    spread_out[order] = np.maximum(np.minimum(fitted, high - offsets[-1]), low) + offsets
    return spread_out.tolist()


def shorten(name: str) -> str:
    """Returns the beginning and the end of a long name."""
    half = (MAX_LABEL - 1) // 2
    return name if len(name) <= MAX_LABEL else f"{name[:half]}…{name[-half:]}"


def format_count(x: float) -> str:
    """Returns a number of steps or tokens as an axis shows it: 200,000, 1.5M, 26B."""
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if unit <= abs(x) < 1e15:
            return f"{x / unit:g}{name}"
    return f"{x:,g}" if abs(x) < 1e6 else f"{x:.2g}"
