"""The statistics of attention that a run writes with every validation: how they are read and drawn."""

import re
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from symbert_jax import render
from symbert_jax.compare.plots import STYLE, THIN, Curve, Line, Plot, draw, run_lines
from symbert_jax.compare.runs import RunCurve

STATISTICS = {  # their titles
    "logit_std": "standard deviation of logits",
    "entropy": "entropy of attention (nats)",
    "symmetry": "symmetry of Wq Wkᵀ",
}
MAX_LAYERS = 4  # columns of the plot
PAGE_WIDTH = 11.5  # inches, of a figure as wide as the page

Statistics = Mapping[str, Mapping[int, Sequence[float]]]  # by name: the values of all layers by step


def read_statistics(run: RunCurve) -> dict[str, dict[int, list[float]]]:
    """Returns the statistics of attention by name: the values of all layers by step. A run without scores has none."""
    by_layer: dict[str, dict[int, dict[int, float]]] = {}
    for metric, values in run.metrics.items():
        if match := re.fullmatch(r"attention/(\w+)/layer_(\d+)", metric):
            for step, value in values.items():
                by_layer.setdefault(match[1], {}).setdefault(step, {})[int(match[2])] = value
    return {
        name: {step: [found[layer] for layer in sorted(found)] for step, found in sorted(steps.items())}
        for name, steps in by_layer.items()
    }


def draw_statistics(statistics: Sequence[Statistics], lines: Sequence[Line]) -> Figure | None:
    """Returns a figure of statistics over steps, each with its line; None if there are none.

    A row per statistic and a column per layer, of at most `MAX_LAYERS` layers from the first to the last.
    """
    num_layers = max(
        (len(layers) for each in statistics for steps in each.values() for layers in steps.values()), default=0
    )
    if not num_layers:
        return None
    shown = np.unique(np.linspace(0, num_layers - 1, min(num_layers, MAX_LAYERS)).round().astype(int))
    size = (2.8 * len(shown) + 0.5, 2.4 * len(STATISTICS))
    figure, grid = plt.subplots(
        len(STATISTICS), len(shown), figsize=size, sharex=True, sharey="row", squeeze=False, layout="constrained"
    )
    for (name, title), row in zip(STATISTICS.items(), grid, strict=True):
        for layer, axes in zip(shown, row, strict=True):
            for each, line in zip(statistics, lines, strict=True):
                # One may have fewer layers than another.
                steps = each.get(name, {}).items()
                if points := [(float(step), layers[layer]) for step, layers in steps if layer < len(layers)]:
                    draw(axes, [Curve(name, line, points)])
        row[0].set_ylabel(title)
    for layer, axes in zip(shown, grid[0], strict=True):
        axes.set_title(f"layer {layer}")
    for axes in grid[-1]:
        axes.set_xlabel("step")
    return figure


def plot_attention(runs: Sequence[RunCurve]) -> Plot | None:
    """Returns the plot of the page, None if no run has statistics of attention."""
    title = "Statistics of attention by layer"
    lines = [line._replace(width=THIN) for line in run_lines(runs)]
    with plt.rc_context(STYLE | render.PAGE_STYLE):
        if not (figure := draw_statistics([read_statistics(run) for run in runs], lines)):
            return None
        figure.set_figwidth(PAGE_WIDTH)
        return Plot(title, render.to_svg(figure, title))
