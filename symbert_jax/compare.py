"""Compares runs: a plot of their validation losses, a table, and their predictions for [MASK]s in texts."""

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

import matplotlib.pyplot as plt
from etils import epath

from symbert_jax import config as configs
from symbert_jax import metrics, render
from symbert_jax.checkpoint import LOSS
from symbert_jax.config import Config
from symbert_jax.errors import UserError, printable
from symbert_jax.inference import Model, load
from symbert_jax.model import bert
from symbert_jax.storage import absolute, bucket_errors_as_user_errors, write_whole

NUM_THRESHOLDS = 3  # columns of loss thresholds in the table; a cell is the first step at which the run reaches one
NUM_GUESSES = 5  # tokens shown for each [MASK]


class RunCurve(NamedTuple):
    """The validation losses of a run, with its config and speed."""

    name: str
    config: Config
    losses: dict[int, float]  # validation losses in nats, by step
    tokens_per_second: float | None  # the median over the log points; None if none has a speed

    @property
    def final_loss(self) -> float:
        return self.losses[max(self.losses)]

    def first_step_at(self, loss: float) -> int | None:
        """Returns the first step with a validation loss of at most `loss`, None if there is none."""
        return next((step for step, step_loss in sorted(self.losses.items()) if step_loss <= loss), None)


def compare(workdirs: list[epath.Path], out: epath.Path, texts: list[str]) -> None:
    """Prints a table of the runs, and writes it as `table.md` and a plot of the losses as `loss.png` to `out`.

    workdirs: the workdirs of the runs; one that is given twice counts once.
    texts: texts with [MASK]; the most probable tokens of every run for each [MASK] are added below the table.

    Raises:
      UserError: a workdir has no validation loss, a text cannot be filled, or `out` cannot be written.
    """
    out = absolute(out, "out")
    workdirs = list(dict.fromkeys(absolute(workdir, "WORKDIR") for workdir in workdirs))
    runs = [read_run(workdir, name) for workdir, name in zip(workdirs, unique_names(workdirs), strict=True)]
    sections = [format_table(runs)]
    if texts:
        models = [(run.name, load(workdir)) for run, workdir in zip(runs, workdirs, strict=True)]
        sections += [format_guesses(text, models) for text in texts]
    with bucket_errors_as_user_errors("out", out, "a bucket that can be written"):
        try:
            out.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError("out", f"{out}, which is or lies in a file", "a folder") from None
        write_whole(out / "table.md", "\n".join(sections))
        write_whole(out / "loss.png", plot_losses(runs))
    print("\n".join(sections) + f"\nWrote {out}/table.md and {out}/loss.png")


def unique_names(workdirs: Sequence[epath.Path]) -> list[str]:
    """Returns a unique name of each path: the fewest of its last parts with which no other path ends.

    It is the whole path if another path ends with that too. Unprintable characters are escaped.
    """
    paths = [f"{workdir}".split("/") for workdir in workdirs]
    names = []
    for i, path in enumerate(paths):
        others = paths[:i] + paths[i + 1 :]
        endings = (path[-count:] for count in range(1, len(path) + 1))
        ending = next(end for end in endings if end == path or all(other[-len(end) :] != end for other in others))
        names.append(printable("/".join(ending)))
    return names


def read_run(workdir: epath.Path, name: str) -> RunCurve:
    """Reads a run from its workdir.

    Raises:
      UserError: there is no run, it has no validation loss, or its files are damaged.
    """
    with bucket_errors_as_user_errors("WORKDIR", workdir, "a bucket that can be read"):
        lines = metrics.read(workdir)
        losses = {line["step"]: line[LOSS] for line in lines if LOSS in line}
        if not losses:
            raise UserError(str(workdir), "no validation loss", "the workdir of a pretrain run that has validated")
        speeds = [line["speed/tokens_per_second"] for line in lines if "speed/tokens_per_second" in line]
        config = configs.read(workdir)
    for problem in configs.problems(config):
        raise UserError(
            f"{workdir / 'config.json'}", f"an invalid config ({problem})", "the config that `pretrain` wrote"
        )
    return RunCurve(name, config, losses, median(speeds) if speeds else None)


def format_table(runs: list[RunCurve]) -> str:
    """Returns a Markdown table with a row per run."""
    low = max(run.final_loss for run in runs)  # the highest final loss: every run reaches all thresholds above it
    high = max(max(run.losses.values()) for run in runs)
    thresholds = choose_thresholds(low, high)
    head = ["run", "parameters", "validation loss", *(f"step at {loss}" for loss in thresholds), "tokens/s"]
    rows = [
        [
            run.name,
            f"{bert.size(run.config.model):,}",
            f"{run.final_loss:.3f}",
            *(str(run.first_step_at(float(loss)) or "-") for loss in thresholds),
            "-" if run.tokens_per_second is None else f"{run.tokens_per_second:,.0f}",
        ]
        for run in runs
    ]
    return render.markdown_table(head, rows)


def choose_thresholds(low: float, high: float) -> list[str]:
    """Returns thresholds between `low` and `high`, as text, evenly spaced, the highest first.

    They have the fewest decimals, from 1 to 9, that keep them distinct. The list is empty if `low` equals `high`.
    """
    if low == high:
        return []
    losses = [low + (high - low) * i / (NUM_THRESHOLDS + 1) for i in range(NUM_THRESHOLDS, 0, -1)]
    rounded = (list(dict.fromkeys(f"{loss:.{decimals}f}" for loss in losses)) for decimals in range(1, 10))
    return max(rounded, key=len)  # the first of the longest lists, the one with the fewest decimals


def format_guesses(text: str, models: list[tuple[str, Model]]) -> str:
    """Returns the most probable tokens for each [MASK] of `text` by each model, as a Markdown list."""
    lines = [f"> {text}\n"]
    for name, model in models:
        mask_texts = (
            "; ".join(f"{token} {p:.0%}" for token, p in guesses) for guesses in model.fill_mask(text, NUM_GUESSES)
        )
        lines.append(f"- {name}: " + " | ".join(mask_texts))
    return "\n".join(lines) + "\n"


def plot_losses(runs: list[RunCurve]) -> bytes:
    """Returns a PNG of validation loss over steps, with a line per run."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for run in runs:
        marker = "o" if len(run.losses) == 1 else None  # a line through one point is invisible
        label = render.legend_label(f"{run.name} ({run.final_loss:.2f})")
        axes.plot(*zip(*sorted(run.losses.items()), strict=True), marker=marker, label=label)
    axes.set(xlabel="step", ylabel="validation loss (nats)")
    axes.grid(alpha=0.3)
    axes.legend(title="run (final loss)", loc="upper right")
    return render.to_png(figure)
