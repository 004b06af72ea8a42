"""Several runs side by side: a plot of their validation losses, a table, and what each makes of a [MASK]."""

from statistics import median
from typing import NamedTuple

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from etils import epath

from symbert_jax import metrics
from symbert_jax.config import Config, from_json
from symbert_jax.errors import UserError
from symbert_jax.fill import Filler
from symbert_jax.model import bert

CROSSINGS = 3  # fixed losses, evenly spread between the worst final loss and the highest first one
GUESSES = 5


class Run(NamedTuple):
    """A workdir as its files tell it."""

    name: str
    config: Config
    losses: dict[int, float]  # validation loss in nats by step
    tokens_per_second: float  # median over the log points

    @property
    def final(self) -> float:
        return self.losses[max(self.losses)]

    def crossing(self, loss: float) -> int | None:
        """The first validated step at which the loss was down to `loss`."""
        return next((step for step, found in sorted(self.losses.items()) if found <= loss), None)


def compare(workdirs: list[epath.Path], out: epath.Path, texts: list[str]) -> None:
    """Prints the table and leaves `loss.png` and `table.md` in `out`.

    Raises:
      UserError: a workdir holds no validated run.
    """
    runs = [read(workdir) for workdir in workdirs]
    out.mkdir(parents=True, exist_ok=True)
    sections = [table(runs)]
    if texts:
        fillers = [(run.name, Filler(workdir)) for run, workdir in zip(runs, workdirs, strict=True)]
        sections += [guesses(text, fillers) for text in texts]
    (out / "table.md").write_text("\n".join(sections))
    plot(runs, out / "loss.png")
    print("\n".join(sections) + f"\nWrote {out}/table.md and {out}/loss.png")


def read(workdir: epath.Path) -> Run:
    """The run in `workdir`."""
    lines = metrics.read(workdir)
    losses = {line["step"]: line["validation/loss"] for line in lines if "validation/loss" in line}
    if not losses:
        raise UserError(str(workdir), "no validation loss", "the workdir of a pretrain run that has validated")
    speeds = [line["speed/tokens_per_second"] for line in lines if "speed/tokens_per_second" in line]
    config = from_json((workdir / "config.json").read_text())
    return Run(workdir.name, config, losses, median(speeds) if speeds else float("nan"))


def table(runs: list[Run]) -> str:
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
            f"{run.tokens_per_second:,.0f}",
        ]
        for run in runs
    ]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in [head, ["---"] * len(head), *rows])


def guesses(text: str, fillers: list[tuple[str, Filler]]) -> str:
    """What each model expects at each [MASK] of `text`, as a Markdown list."""
    lines = [f"> {text}\n"]
    for name, filler in fillers:
        places = ("; ".join(f"{word} {p:.0%}" for word, p in place) for place in filler.guesses(text, GUESSES))
        lines.append(f"- {name}: " + " | ".join(places))
    return "\n".join(lines) + "\n"


def plot(runs: list[Run], path: epath.Path) -> None:
    """Validation loss over steps, one line a run."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for run in runs:
        axes.plot(*zip(*sorted(run.losses.items()), strict=True), label=f"{run.name} ({run.final:.2f})")
    axes.set(xlabel="step", ylabel="validation loss (nats)")
    axes.grid(alpha=0.3)
    axes.legend(title="run (final loss)", loc="upper right")
    figure.savefig(str(path), dpi=150)
    plt.close(figure)
