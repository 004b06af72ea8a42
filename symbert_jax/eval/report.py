"""The results of a fine-tuning run: results.json, results.md, plots, and the format of the GLUE server."""

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from etils import epath

from symbert_jax import render
from symbert_jax.config import FinetuneConfig, ModelConfig
from symbert_jax.eval.protocols import Protocol
from symbert_jax.eval.scores import Predictions, compute_means, compute_score
from symbert_jax.eval.tasks import Task
from symbert_jax.eval.trials import Setting, TrialResult
from symbert_jax.storage import write_whole

CROSSING = 75.0  # sweep.png marks where the mean score reaches this value, as the paper's last figure does

MeanScores = dict[tuple[Task, str], float]  # the mean over seeds, 0 to 100, by task and validation split


class ScoredCheckpoint(NamedTuple):
    """A checkpoint and the results of all its trials."""

    name: str  # the workdir as the config names it, made printable
    step: int
    sha256: str
    model: ModelConfig
    results: dict[Task, list[TrialResult]]

    @property
    def title(self) -> str:
        return f"{self.name} @ {self.step:,}"


class BestSetting(NamedTuple):
    """The setting that gives a task its best mean score, and the results of its trials."""

    setting: Setting
    results: list[TrialResult]  # one for each seed
    scores: dict[str, list[float]]  # by split; 0 to 100, in the order of `results`

    @property
    def num_collapsed(self) -> int:
        return sum(result.collapsed for result in self.results)


def find_best_setting(results: Sequence[TrialResult]) -> BestSetting:
    """Returns the setting with the highest score, averaged over seeds and validation splits."""
    settings: dict[Setting, list[TrialResult]] = {}
    for result in results:
        settings.setdefault(result.trial.setting, []).append(result)
    setting, best = max(settings.items(), key=lambda item: statistics.mean(result.score for result in item[1]))
    scores = {split: [compute_score(result.scores[split]) for result in best] for split in best[0].scores}
    return BestSetting(setting, best, scores)


def write_report(
    config: FinetuneConfig, protocol: Protocol, checkpoints: Sequence[ScoredCheckpoint], workdir: epath.Path
) -> None:
    """Writes all files of the report to `workdir` and prints the table of scores."""
    content = {
        "config": dataclasses.asdict(config),
        "protocol": dataclasses.asdict(protocol),
        "checkpoints": [_to_json(checkpoint) for checkpoint in checkpoints],
    }
    write_whole(workdir / "results.json", json.dumps(content, indent=1) + "\n")
    table = format_scores(checkpoints)
    write_whole(workdir / "results.md", table + "\n" + "\n".join(map(format_details, checkpoints)))
    plot_tasks(checkpoints, workdir / "scores.png")
    plots = "scores.png"
    if config.checkpoint_steps:
        plot_sweep(checkpoints, workdir / "sweep.png")
        plots = "scores.png, sweep.png"
    print(table + f"\nWrote {workdir}/results.md, results.json and {plots}")


def format_scores(checkpoints: Sequence[ScoredCheckpoint]) -> str:
    """Returns a Markdown table with a row per checkpoint and a column per score and mean."""
    columns: dict[str, str] = {}
    rows = []
    for checkpoint in checkpoints:
        scores = _mean_scores(checkpoint)
        cells = {"checkpoint": checkpoint.title}
        cells |= {_score_name(*key): f"{score:.1f}" for key, score in scores.items()}
        cells |= {name: f"{mean:.2f}" for name, mean in _named_means(scores).items()}
        columns |= dict.fromkeys(cells, "")
        rows.append(cells)
    return render.markdown_table(list(columns), [[cells.get(column, "") for column in columns] for cells in rows])


def format_details(checkpoint: ScoredCheckpoint) -> str:
    """Returns a Markdown section: mean, deviation and median of each metric over the seeds of the best setting."""
    head = ["task", "metric", "mean ± std", "median", "collapsed", "lr", "batch", "decay", "epochs"]
    rows = []
    for task, results in checkpoint.results.items():
        best = find_best_setting(results)
        for split in best.scores:
            for metric in task.metrics:
                values = [100 * result.scores[split][metric] for result in best.results]
                deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
                rows.append(
                    [
                        _score_name(task, split),
                        metric,
                        f"{statistics.mean(values):.1f}{deviation}",
                        f"{statistics.median(values):.1f}",
                        f"{best.num_collapsed} of {len(values)}",
                        f"{best.setting.learning_rate:g}",
                        str(best.setting.batch_size),
                        f"{best.setting.weight_decay:g}",
                        str(best.setting.epochs),
                    ]
                )
    model = checkpoint.model
    origin = f"{model.attention}, {model.layers} x {model.dim}, {checkpoint.name} step {checkpoint.step}"
    table = render.markdown_table(head, rows)
    return f"## {checkpoint.title}\n\n{origin}, SHA-256 {checkpoint.sha256[:16]}\n\n{table}"


def format_trial(result: TrialResult) -> str:
    """Returns the line that is printed when a trial is finished."""
    trial = result.trial
    metrics = "  ".join(
        f"{split.removeprefix('validation').strip('_')} {name} {100 * value:.1f}".strip()
        for split, values in result.scores.items()
        for name, value in values.items()
    )
    setting = (
        f"lr {trial.learning_rate:g}  batch {trial.batch_size}  decay {trial.weight_decay:g}  epochs {trial.epochs}"
    )
    line = f"{trial.task}  {setting}  seed {trial.seed}  {metrics}"
    return line + "  collapsed" * result.collapsed + f"  {result.seconds:.0f} s"


def format_submission(task: Task, predictions: Predictions) -> str:
    """Returns the content of a file for the GLUE server.

    It names classes as the task's files do, and clips the values of a regression to the range of STS-B, 0 to 5; those
    of a model that has diverged are not finite.
    """
    if task.classes:
        labels = [task.classes[int(value)] for value in predictions]
    else:
        labels = [f"{value:.3f}" for value in np.nan_to_num(predictions, posinf=5).clip(0, 5)]
    return "index\tprediction\n" + "".join(f"{index}\t{label}\n" for index, label in enumerate(labels))


def plot_tasks(checkpoints: Sequence[ScoredCheckpoint], path: epath.Path) -> None:
    """Plots the mean score of each validation split as a bar per checkpoint, and the score of each seed as a dot."""
    names = list(dict.fromkeys(_score_name(*key) for checkpoint in checkpoints for key in _seed_scores(checkpoint)))
    figure, axes = plt.subplots(figsize=(1.5 + 0.9 * len(names), 4.5), layout="constrained")
    width = 0.8 / len(checkpoints)
    for number, checkpoint in enumerate(checkpoints):
        scores = {_score_name(*key): values for key, values in _seed_scores(checkpoint).items()}
        centers = [names.index(name) + (number - (len(checkpoints) - 1) / 2) * width for name in scores]
        heights = [statistics.mean(values) for values in scores.values()]
        axes.bar(centers, heights, width, label=render.legend_label(checkpoint.title), alpha=0.7)
        for center, values in zip(centers, scores.values(), strict=True):
            axes.plot([center] * len(values), values, "k.", markersize=4)
    axes.set(ylabel="score (bar: mean, dot: seed)", xticks=range(len(names)), xticklabels=names)
    axes.grid(axis="y", alpha=0.3)
    figure.legend(title="checkpoint @ step", fontsize="small", loc="outside upper left")
    write_whole(path, render.to_png(figure))


def plot_sweep(checkpoints: Sequence[ScoredCheckpoint], path: epath.Path) -> None:
    """Plots the mean score over pretraining steps, a line per workdir, and marks where a line reaches CROSSING."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name in dict.fromkeys(checkpoint.name for checkpoint in checkpoints):
        means = {each.step: _main_mean(_mean_scores(each))[1] for each in checkpoints if each.name == name}
        step = find_crossing(means)
        where = f"{CROSSING:g} at step {step:,.0f}" if step is not None else f"below {CROSSING:g}"
        label = render.legend_label(f"{name}: {where}")
        axes.plot(*zip(*sorted(means.items()), strict=True), marker="o", label=label)
        if step is not None:
            axes.plot([step], [CROSSING], "kx")
    axes.set(xlabel="pretraining step", ylabel=_main_mean(_mean_scores(checkpoints[0]))[0])
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    write_whole(path, render.to_png(figure))


def find_crossing(means: Mapping[int, float]) -> float | None:
    """Returns the step at which the mean score reaches CROSSING, interpolated linearly; None if it never does.

    means: the mean score by step. If the first of them has reached CROSSING, its step is returned.
    """
    previous: tuple[int, float] | None = None
    for step, value in sorted(means.items()):
        if value >= CROSSING:
            if previous is None:
                return float(step)
            return previous[0] + (step - previous[0]) * (CROSSING - previous[1]) / (value - previous[1])
        previous = step, value
    return None


def _to_json(checkpoint: ScoredCheckpoint) -> dict[str, Any]:
    return {
        "checkpoint": checkpoint.name,
        "step": checkpoint.step,
        "sha256": checkpoint.sha256,
        "model": dataclasses.asdict(checkpoint.model),
        "means": compute_means(_mean_scores(checkpoint)),
        "tasks": {
            task.name: {
                **(best := find_best_setting(results)).setting._asdict(),
                "collapsed": best.num_collapsed,
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
                        **result.trial.setting._asdict(),
                        "seed": result.trial.seed,
                        "epoch": result.epoch,
                        "collapsed": result.collapsed,
                        "metrics": result.scores,
                        "seconds": result.seconds,
                    }
                    for result in results
                ],
            }
            for task, results in checkpoint.results.items()
        },
    }


def _seed_scores(checkpoint: ScoredCheckpoint) -> dict[tuple[Task, str], list[float]]:
    """Returns the scores of all seeds at the best setting, by task and split."""
    return {
        (task, split): values
        for task, results in checkpoint.results.items()
        for split, values in find_best_setting(results).scores.items()
    }


def _mean_scores(checkpoint: ScoredCheckpoint) -> MeanScores:
    return {key: statistics.mean(values) for key, values in _seed_scores(checkpoint).items()}


def _named_means(scores: MeanScores) -> dict[str, float]:
    """Returns the means of scores, each under a name that says which scores it covers."""
    means = compute_means(scores)
    if not means:
        return {}
    is_complete = "glue" in means  # it has all scores of the paper's mean
    name = "GLUE" if is_complete else f"mean of {sum(task.in_paper_mean for task, _ in scores)}"
    named = {name: means["mean"]}
    if "mean_with_wnli" in means:
        named[f"mean of {len(scores)} with WNLI"] = means["mean_with_wnli"]
    return named


def _main_mean(scores: MeanScores) -> tuple[str, float]:
    """Returns the name and the value of the mean to plot, or of the score of WNLI if there is no other score."""
    (name, value), *_ = (_named_means(scores) or {_score_name(*key): score for key, score in scores.items()}).items()
    return name, value


def _score_name(task: Task, split: str) -> str:
    """Returns a heading such as RTE, or MNLI-matched where a task has several validation splits."""
    title = next(part.title for part in task.validation if part.name == split)
    return f"{task.folders[0]}-{title}" if title else task.folders[0]
