"""Compares runs: a plot of their validation losses, a table, and the tokens that each predicts for a [MASK]."""

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

CROSSINGS = 3  # fixed losses, evenly spread between the worst final loss and the highest first one
GUESSES = 5


class RunCurve(NamedTuple):
    """A run as the files of its workdir describe it."""

    name: str
    config: Config
    losses: dict[int, float]  # validation loss in nats by step
    tokens_per_second: float | None  # median over the log points, None where there are none

    @property
    def final(self) -> float:
        return self.losses[max(self.losses)]

    def crossing(self, loss: float) -> int | None:
        """The first step at which the validation loss was at most `loss`."""
        return next((step for step, found in sorted(self.losses.items()) if found <= loss), None)


def compare(workdirs: list[epath.Path], out: epath.Path, texts: list[str]) -> None:
    """Prints the table and leaves `loss.png` and `table.md` in `out`. A workdir that is given twice counts once.

    Raises:
      UserError: a workdir holds no validated run, a text cannot be filled, or `out` cannot be written.
    """
    out = absolute(out, "out")
    workdirs = list(dict.fromkeys(absolute(workdir, "WORKDIR") for workdir in workdirs))
    runs = [read(workdir, name) for workdir, name in zip(workdirs, names(workdirs), strict=True)]
    sections = [table(runs)]
    if texts:
        models = [(run.name, load(workdir)) for run, workdir in zip(runs, workdirs, strict=True)]
        sections += [guesses(text, models) for text in texts]
    with bucket_errors_as_user_errors("out", out, "a bucket that can be written"):
        try:
            out.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError("out", f"{out}, which is or lies in a file", "a folder") from None
        write_whole(out / "table.md", "\n".join(sections))
        write_whole(out / "loss.png", plot(runs))
    print("\n".join(sections) + f"\nWrote {out}/table.md and {out}/loss.png")


def names(workdirs: Sequence[epath.Path]) -> list[str]:
    """The shortest unique name of each path: as many of its last parts as no other path ends with."""
    paths = [f"{workdir}".split("/") for workdir in workdirs]
    found = []
    for i, path in enumerate(paths):
        others = paths[:i] + paths[i + 1 :]
        endings = (path[-count:] for count in range(1, len(path) + 1))
        ending = next(end for end in endings if end == path or all(other[-len(end) :] != end for other in others))
        found.append(printable("/".join(ending)))
    return found


def read(workdir: epath.Path, name: str) -> RunCurve:
    """The run in `workdir`, under this name.

    Raises:
      UserError: there is none, it has not validated, or its files are damaged.
    """
    with bucket_errors_as_user_errors("WORKDIR", workdir, "a bucket that can be read"):
        lines = metrics.read(workdir)
        losses = {line["step"]: line[LOSS] for line in lines if LOSS in line}
        if not losses:
            raise UserError(str(workdir), "no validation loss", "the workdir of a pretrain run that has validated")
        speeds = [line["speed/tokens_per_second"] for line in lines if "speed/tokens_per_second" in line]
        config = configs.read(workdir)
    for problem in configs.problems(config):
        raise UserError(f"{workdir / 'config.json'}", f"a config that cannot work ({problem})", "that of the run")
    return RunCurve(name, config, losses, median(speeds) if speeds else None)


def table(runs: list[RunCurve]) -> str:
    """A Markdown table, a row a run."""
    low, high = max(run.final for run in runs), max(max(run.losses.values()) for run in runs)
    fixed = [round(low + (high - low) * part / (CROSSINGS + 1), 1) for part in range(CROSSINGS, 0, -1)]
    head = ["run", "parameters", "validation loss", *(f"step at {loss}" for loss in fixed), "tokens/s"]
    rows = [
        [
            run.name,
            f"{bert.size(run.config.model):,}",
            f"{run.final:.3f}",
            *(str(run.crossing(loss) or "-") for loss in fixed),
            "-" if run.tokens_per_second is None else f"{run.tokens_per_second:,.0f}",
        ]
        for run in runs
    ]
    return render.table(head, rows)


def guesses(text: str, models: list[tuple[str, Model]]) -> str:
    """The most probable tokens for each [MASK] of `text` by each model, as a Markdown list."""
    lines = [f"> {text}\n"]
    for name, model in models:
        masks = ("; ".join(f"{token} {p:.0%}" for token, p in found) for found in model.fill_mask(text, GUESSES))
        lines.append(f"- {name}: " + " | ".join(masks))
    return "\n".join(lines) + "\n"


def plot(runs: list[RunCurve]) -> bytes:
    """Validation loss over steps, one line a run, as a PNG."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for run in runs:
        marker = "o" if len(run.losses) == 1 else None  # a line of one point is invisible
        label = render.legend_label(f"{run.name} ({run.final:.2f})")
        axes.plot(*zip(*sorted(run.losses.items()), strict=True), marker=marker, label=label)
    axes.set(xlabel="step", ylabel="validation loss (nats)")
    axes.grid(alpha=0.3)
    axes.legend(title="run (final loss)", loc="upper right")
    return render.png(figure)
