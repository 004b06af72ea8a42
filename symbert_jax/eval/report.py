"""What a fine-tuning run leaves: results.json, results.md, plots, and the files for the GLUE server."""

import dataclasses
import json
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
from etils import epath

from symbert_jax import render
from symbert_jax.config import FinetuneConfig, ModelConfig
from symbert_jax.eval.protocols import Protocol
from symbert_jax.eval.scores import PAPER, Predictions, means, score
from symbert_jax.eval.tasks import Task
from symbert_jax.eval.trials import Result
from symbert_jax.storage import write_whole

CROSSING = 75.0  # the GLUE mean whose step the paper's last figure marks


class Scored(NamedTuple):
    """A checkpoint and every trial made from it."""

    name: str  # of the workdir, as the config gave it but printable
    step: int
    sha256: str
    model: ModelConfig
    results: dict[Task, list[Result]]

    @property
    def title(self) -> str:
        return f"{self.name} @ {self.step:,}"


class Summary(NamedTuple):
    """The trials of a task at the best of the settings tried, by their mean score."""

    learning_rate: float
    batch_size: int
    results: list[Result]  # by seed
    scores: dict[str, list[float]]  # 0 to 100, by split and in the order of `results`

    @property
    def collapsed(self) -> int:
        return sum(result.collapsed for result in self.results)


def summarise(results: Sequence[Result]) -> Summary:
    settings: dict[tuple[float, int], list[Result]] = {}
    for result in results:
        settings.setdefault((result.trial.learning_rate, result.trial.batch_size), []).append(result)
    (rate, size), best = max(settings.items(), key=lambda item: statistics.mean(each.score for each in item[1]))
    splits = best[0].scores
    return Summary(rate, size, best, {split: [score(each.scores[split]) for each in best] for split in splits})


def write(config: FinetuneConfig, protocol: Protocol, scored: Sequence[Scored], workdir: epath.Path) -> None:
    """Prints the table and leaves every file in `workdir`."""
    facts = {
        "config": dataclasses.asdict(config),
        "protocol": dataclasses.asdict(protocol),
        "checkpoints": [_facts(each) for each in scored],
    }
    write_whole(workdir / "results.json", json.dumps(facts, indent=1) + "\n")
    text = table(scored) + "\n" + "\n".join(details(each) for each in scored)
    write_whole(workdir / "results.md", text)
    plot_tasks(scored, workdir / "scores.png")
    if config.checkpoint_steps:
        plot_sweep(scored, workdir / "sweep.png")
    print(table(scored) + f"\nWrote {workdir}/results.md, results.json and scores.png")


def table(scored: Sequence[Scored]) -> str:
    """A Markdown table: a row a checkpoint, a column a score, then the means."""
    columns: dict[str, str] = {}
    rows = []
    for each in scored:
        cells = {"checkpoint": each.title}
        for (task, split), values in _scores(each).items():
            cells[_name(task, split)] = f"{statistics.mean(values):.1f}"
        for name, value in means({key: statistics.mean(found) for key, found in _scores(each).items()}).items():
            cells[_mean_name(name, each)] = f"{value:.2f}"
        columns |= dict.fromkeys(cells, "")
        rows.append(cells)
    return render.table(list(columns), [[cells.get(column, "") for column in columns] for cells in rows])


def details(each: Scored) -> str:
    """A checkpoint's tasks: mean and standard deviation over seeds, median, collapsed runs, and each metric."""
    head = ["task", "metric", "mean ± std", "median", "collapsed", "lr", "batch"]
    rows = []
    for task, results in each.results.items():
        best = summarise(results)
        for split in best.scores:
            for metric in task.metrics:
                values = [100 * result.scores[split][metric] for result in best.results]
                deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
                rows.append(
                    [
                        _name(task, split),
                        metric,
                        f"{statistics.mean(values):.1f}{deviation}",
                        f"{statistics.median(values):.1f}",
                        f"{best.collapsed} of {len(values)}",
                        f"{best.learning_rate:g}",
                        str(best.batch_size),
                    ]
                )
    kind = f"{each.model.attention}, {each.model.layers} x {each.model.dim}, {each.name} step {each.step}"
    return f"## {each.title}\n\n{kind}, SHA-256 {each.sha256[:16]}\n\n" + render.table(head, rows)


def trial_line(result: Result) -> str:
    """Returns the line that is printed when a trial is finished."""
    trial = result.trial
    metrics = "  ".join(
        f"{split.removeprefix('validation').strip('_')} {name} {100 * value:.1f}".strip()
        for split, found in result.scores.items()
        for name, value in found.items()
    )
    line = f"{trial.task}  lr {trial.learning_rate:g}  batch {trial.batch_size}  seed {trial.seed}  {metrics}"
    return line + "  collapsed" * result.collapsed + f"  {result.seconds:.0f} s"


def submission(task: Task, answers: Predictions) -> str:
    """A file that the GLUE server takes: class names as the task's files write them, similarities from 0 to 5."""
    labels = [task.classes[int(answer)] if task.classes else f"{min(max(answer, 0), 5):.3f}" for answer in answers]
    return "index\tprediction\n" + "".join(f"{index}\t{label}\n" for index, label in enumerate(labels))


def plot_tasks(scored: Sequence[Scored], path: epath.Path) -> None:
    """Every task's mean score as a bar a checkpoint, every seed's as a dot."""
    names = list(dict.fromkeys(_name(*key) for each in scored for key in _scores(each)))
    figure, axes = plt.subplots(figsize=(1.5 + 0.9 * len(names), 4.5), layout="constrained")
    width = 0.8 / len(scored)
    for number, each in enumerate(scored):
        found = {_name(*key): values for key, values in _scores(each).items()}
        centers = [names.index(name) + (number - (len(scored) - 1) / 2) * width for name in found]
        heights = [statistics.mean(values) for values in found.values()]
        axes.bar(centers, heights, width, label=render.legend_label(each.title), alpha=0.7)
        for center, values in zip(centers, found.values(), strict=True):
            axes.plot([center] * len(values), values, "k.", markersize=4)
    axes.set(ylabel="score (bar: mean, dot: seed)", xticks=range(len(names)), xticklabels=names)
    axes.grid(axis="y", alpha=0.3)
    figure.legend(title="checkpoint @ step", fontsize="small", loc="outside upper left")
    write_whole(path, render.png(figure))


def plot_sweep(scored: Sequence[Scored], path: epath.Path) -> None:
    """Mean score over pretraining steps, a line a workdir, with the step at which it crosses 75."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name in dict.fromkeys(each.name for each in scored):
        line = {each.step: _mean(each) for each in scored if each.name == name}
        step = crossing(line)
        where = f"{CROSSING:g} at step {step:,.0f}" if step else f"below {CROSSING:g}"
        axes.plot(*zip(*sorted(line.items()), strict=True), marker="o", label=render.legend_label(f"{name}: {where}"))
        if step:
            axes.plot([step], [CROSSING], "kx")
    axes.set(xlabel="pretraining step", ylabel=_mean_name("mean", scored[0]))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    write_whole(path, render.png(figure))


def crossing(line: dict[int, float]) -> float | None:
    """The step at which a mean score, straight between the steps that were scored, comes to 75."""
    before: tuple[int, float] | None = None
    for step, value in sorted(line.items()):
        if value >= CROSSING:
            if before is None:
                return float(step)
            return before[0] + (step - before[0]) * (CROSSING - before[1]) / (value - before[1])
        before = step, value
    return None


def _facts(each: Scored) -> dict[str, Any]:
    found = _scores(each)
    return {
        "checkpoint": each.name,
        "step": each.step,
        "sha256": each.sha256,
        "model": dataclasses.asdict(each.model),
        "means": means({key: statistics.mean(values) for key, values in found.items()}),
        "tasks": {
            task.name: {
                "learning_rate": (best := summarise(results)).learning_rate,
                "batch_size": best.batch_size,
                "collapsed": best.collapsed,
                "scores": {
                    split: {
                        "mean": statistics.mean(values),
                        "std": statistics.stdev(values) if len(values) > 1 else None,
                        "median": statistics.median(values),
                    }
                    for split, values in best.scores.items()
                },
                "trials": [
                    {
                        "learning_rate": result.trial.learning_rate,
                        "batch_size": result.trial.batch_size,
                        "seed": result.trial.seed,
                        "epoch": result.epoch,
                        "collapsed": result.collapsed,
                        "metrics": result.scores,
                        "seconds": result.seconds,
                    }
                    for result in results
                ],
            }
            for task, results in each.results.items()
        },
    }


def _scores(each: Scored) -> dict[tuple[Task, str], list[float]]:
    """The scores of all seeds by task and split."""
    return {
        (task, split): values
        for task, results in each.results.items()
        for split, values in summarise(results).scores.items()
    }


def _mean(each: Scored) -> float:
    found = means({key: statistics.mean(values) for key, values in _scores(each).items()})
    return found.get("mean", found.get("mean_with_wnli", 0.0))


def _mean_name(name: str, each: Scored) -> str:
    count = sum(task.in_paper_mean for task, _ in _scores(each))
    return {
        "mean": f"mean of {count}" if count < PAPER else "GLUE",
        "glue": "GLUE",
        "mean_with_wnli": "with WNLI",
    }[name]


def _name(task: Task, split: str) -> str:
    title = next(part.title for part in task.validation if part.name == split)
    return f"{task.folders[0]}-{title}" if title else task.folders[0]
