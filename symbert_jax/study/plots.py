"""The plots of a study."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np

from symbert_jax import render
from symbert_jax.study.results import Arm

STATISTICS = {  # the titles of the statistics of attention
    "logit_std": "standard deviation of logits",
    "entropy": "entropy of attention (nats)",
    "symmetry": "symmetry of Wq Wkᵀ",
}
MAX_LAYERS = 4  # columns of the plot of diagnostics


def plot_losses(arms: Sequence[Arm]) -> bytes:
    """Returns a PNG of validation loss over steps: the mean over seeds, and a band of one standard deviation."""
    figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    for arm, color in zip(arms, _colors(len(arms)), strict=True):
        curve = arm.curve
        steps, means = list(curve), np.array([mean.mean for mean in curve.values()])
        deviations = np.array([mean.deviation or 0.0 for mean in curve.values()])
        marker = "o" if len(curve) == 1 else None  # a line through one point is invisible
        axes.plot(steps, means, color=color, marker=marker, label=render.legend_label(f"{arm.name} ({means[-1]:.2f})"))
        axes.fill_between(steps, means - deviations, means + deviations, color=color, alpha=0.2, linewidth=0)
    axes.set(xlabel="step", ylabel="validation loss (nats)")
    axes.grid(alpha=0.3)
    axes.legend(title="arm (final loss)", loc="center left", bbox_to_anchor=(1, 0.5))
    return render.to_png(figure)


def plot_escapes(steps: Mapping[str, Mapping[int, int | None]]) -> bytes | None:
    """Returns a PNG of the escape step of every arm, a dot per seed; None if no run has one."""
    reached = {name: [step for step in by_seed.values() if step is not None] for name, by_seed in steps.items()}
    if not any(reached.values()):
        return None
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.35 * len(steps)), layout="constrained")
    for row, (name, found) in enumerate(reached.items()):
        axes.plot(found, [row] * len(found), "o", color="tab:blue", alpha=0.7)
        if found:
            axes.plot([np.mean(found)], [row], "|", color="black", markersize=16)
        if missing := len(steps[name]) - len(found):
            axes.text(1.01, row, f"{missing} never", transform=axes.get_yaxis_transform(), va="center")
    axes.set_yticks(range(len(steps)), list(steps))
    axes.invert_yaxis()
    axes.set(xlabel="escape step")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3, axis="x")
    return render.to_png(figure)


def plot_diagnostics(arms: Sequence[Arm]) -> bytes | None:
    """Returns a PNG of the statistics of attention over steps, means over seeds; None if no arm has any.

    A row per statistic and a column per layer, of at most `MAX_LAYERS` layers from the first to the last.
    """
    curves = {(arm.name, name): arm.diagnostics(name) for arm in arms for name in STATISTICS}
    num_layers = max((len(layers) for curve in curves.values() for layers in curve.values()), default=0)
    if not num_layers:
        return None
    shown = np.unique(np.linspace(0, num_layers - 1, min(num_layers, MAX_LAYERS)).round().astype(int))
    size = (2.8 * len(shown) + 2.5, 2.4 * len(STATISTICS))
    figure, grid = plt.subplots(
        len(STATISTICS), len(shown), figsize=size, sharex=True, sharey="row", squeeze=False, layout="constrained"
    )
    for (statistic, title), row in zip(STATISTICS.items(), grid, strict=True):
        for layer, axes in zip(shown, row, strict=True):
            for arm, color in zip(arms, _colors(len(arms)), strict=True):
                if curve := curves[arm.name, statistic]:
                    values = [layers[layer] for layers in curve.values()]
                    axes.plot(list(curve), values, color=color, label=render.legend_label(arm.name))
            axes.grid(alpha=0.3)
        row[0].set_ylabel(title)
    for layer, axes in zip(shown, grid[0], strict=True):
        axes.set_title(f"layer {layer}")
    for axes in grid[-1]:
        axes.set_xlabel("step")
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside right center")
    return render.to_png(figure)


def _colors(count: int) -> list[tuple[float, ...]]:
    """Returns colors that differ as much as possible."""
    return [plt.get_cmap("tab10" if count <= 10 else "tab20")(i) for i in range(count)]
