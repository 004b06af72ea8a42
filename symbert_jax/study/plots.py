"""The plots of a study."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np

from symbert_jax import render
from symbert_jax.compare.attention import STATISTICS, draw_statistics
from symbert_jax.compare.plots import COLORS, STYLE, Curve, distinct_lines, draw, label_ends
from symbert_jax.study.results import Arm


def plot_losses(arms: Sequence[Arm]) -> bytes:
    """Returns a PNG of validation loss over steps: the mean over seeds, and a band of one standard deviation."""
    curves = []
    for arm, line in zip(arms, distinct_lines(len(arms)), strict=True):
        curves.append(Curve(arm.name, line, [(step, mean.mean) for step, mean in arm.mean_losses.items()]))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(9, max(5, 1 + 0.18 * len(arms))), layout="constrained")
        draw(axes, curves)
        for arm, curve in zip(arms, curves, strict=True):
            steps, means = map(np.array, zip(*curve.points, strict=True))
            deviations = np.array([mean.deviation or 0.0 for mean in arm.mean_losses.values()])
            axes.fill_between(steps, means - deviations, means + deviations, color=curve.line.color, alpha=0.15, lw=0)
        axes.set(title="Validation loss (nats), mean ± standard deviation over seeds", xlabel="step")
        figure.draw_without_rendering()  # fixes the heights of the axes
        label_ends(axes, curves)
        return render.to_png(figure)


def plot_escapes(steps: Mapping[str, Mapping[int, int | None]]) -> bytes | None:
    """Returns a PNG of the escape step of every arm, a dot per seed; None if no run has one."""
    reached = {name: [step for step in by_seed.values() if step is not None] for name, by_seed in steps.items()}
    if not any(reached.values()):
        return None
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(8, 1.2 + 0.35 * len(steps)), layout="constrained")
        for row, (name, found) in enumerate(reached.items()):
            axes.plot(found, [row] * len(found), "o", color=COLORS[0], alpha=0.7)
            if found:
                axes.plot([np.mean(found)], [row], "|", color="black", markersize=16)
            if missing := len(steps[name]) - len(found):
                axes.text(1.01, row, f"{missing} never", transform=axes.get_yaxis_transform(), va="center")
        axes.set_yticks(range(len(steps)), list(steps))
        axes.invert_yaxis()
        axes.set(title="Escape step, by seed", xlabel="step")
        axes.set_xlim(left=0)
        axes.grid(visible=False, axis="y")
        return render.to_png(figure)


def plot_diagnostics(arms: Sequence[Arm]) -> bytes | None:
    """Returns a PNG of the statistics of attention over steps, means over seeds; None if no arm has any."""
    statistics = [{name: arm.diagnostics(name) for name in STATISTICS} for arm in arms]
    with plt.rc_context(STYLE):
        if not (figure := draw_statistics(statistics, distinct_lines(len(arms)))):
            return None
        figure.set_figwidth(figure.get_figwidth() + 2)  # inches, for the legend
        names = [arm.name for arm, each in zip(arms, statistics, strict=True) if any(each.values())]
        figure.legend(figure.axes[0].lines, names, loc="outside right center")
        return render.to_png(figure)
