"""What the runs of a study measured, and its statistics over seeds."""

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from scipy import stats

from symbert_jax import metrics
from symbert_jax.checkpoint import LOSS
from symbert_jax.config import StudyConfig
from symbert_jax.study.plan import Run

CONFIDENCE = 0.95  # of the intervals

Layers = dict[int, list[float]]  # the values of all layers, by step


class Result(NamedTuple):
    """What a finished run measured; there are no losses if it diverged."""

    run: Run
    losses: dict[int, float]  # validation losses in nats, by step
    diagnostics: dict[str, Layers]  # the statistics of attention by name; none for an arm without scores

    @property
    def final_loss(self) -> float:
        return self.losses[max(self.losses)]

    def first_step_at(self, loss: float) -> int | None:
        """Returns the first validated step with a loss of at most `loss`, None if there is none."""
        return next((step for step, found in sorted(self.losses.items()) if found <= loss), None)


class Mean(NamedTuple):
    """A mean over seeds."""

    mean: float
    deviation: float | None  # the standard deviation; None with a single seed
    num_seeds: int

    def interval(self) -> tuple[float, float] | None:
        """Returns the confidence interval of the mean by Student's t, None with a single seed."""
        if self.deviation is None:
            return None
        width = (
            float(stats.t.ppf((1 + CONFIDENCE) / 2, self.num_seeds - 1)) * self.deviation / math.sqrt(self.num_seeds)
        )
        return self.mean - width, self.mean + width


class Arm(NamedTuple):
    """The finished runs of an arm at one learning rate, by seed."""

    name: str
    learning_rate: float
    results: dict[int, Result]

    @property
    def num_diverged(self) -> int:
        return sum(not result.losses for result in self.results.values())

    @property
    def final_losses(self) -> dict[int, float]:
        return {seed: result.final_loss for seed, result in self.results.items() if result.losses}

    @property
    def curve(self) -> dict[int, Mean]:
        """The mean loss over seeds by step, at the steps at which all seeds were validated."""
        curves = [result.losses for result in self.results.values() if result.losses]
        return {step: average([curve[step] for curve in curves]) for step in _common_steps(curves)}

    def diagnostics(self, name: str) -> dict[int, list[float]]:
        """Returns the mean over seeds of a statistic of attention: the values of all layers by step."""
        curves = [result.diagnostics[name] for result in self.results.values() if name in result.diagnostics]
        steps = _common_steps(curves)
        return {
            step: [statistics.mean(layer) for layer in zip(*(curve[step] for curve in curves), strict=True)]
            for step in steps
        }


def average(values: Iterable[float]) -> Mean:
    """Returns mean and standard deviation of at least one value."""
    values = list(values)
    return Mean(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def paired_difference(values: Mapping[int, float], reference: Mapping[int, float]) -> Mean | None:
    """Returns the mean of the differences of two arms at the same seed; None if they have no seed in common.

    Runs of the same seed see the same batches, so part of the deviation between seeds cancels.
    """
    seeds = values.keys() & reference.keys()
    return average(values[seed] - reference[seed] for seed in sorted(seeds)) if seeds else None


def read_result(run: Run) -> Result:
    """Reads a finished run."""
    if run.has_diverged:
        return Result(run, {}, {})
    losses: dict[int, float] = {}
    diagnostics: dict[str, dict[int, dict[int, float]]] = {}
    for line in metrics.read(run.workdir, warn=False):
        if LOSS not in line:
            continue
        losses[line["step"]] = line[LOSS]
        for key, value in line.items():
            if match := re.fullmatch(r"attention/(\w+)/layer_(\d+)", key):
                diagnostics.setdefault(match[1], {}).setdefault(line["step"], {})[int(match[2])] = value
    layers = {
        name: {step: [found[layer] for layer in sorted(found)] for step, found in steps.items()}
        for name, steps in diagnostics.items()
    }
    return Result(run, losses, layers)


def collect(runs: Sequence[Run]) -> list[Arm]:
    """Returns every arm and learning rate that has a finished run, in the order of the study."""
    arms: dict[tuple[str, float], Arm] = {}
    for run in runs:
        if run.is_finished:
            arm = arms.setdefault((run.arm, run.learning_rate), Arm(run.arm, run.learning_rate, {}))
            arm.results[run.seed] = read_result(run)
    order = list(dict.fromkeys(run.arm for run in runs))
    return sorted(arms.values(), key=lambda arm: (order.index(arm.name), arm.learning_rate))


def select_best(arms: Sequence[Arm]) -> dict[str, Arm]:
    """Returns each arm at its best learning rate, the one with the lowest mean of final losses.

    A learning rate with which a seed diverged, or with fewer finished seeds than another of the arm, is left out.
    """
    best: dict[str, Arm] = {}
    for arm in arms:
        if arm.num_diverged:
            continue
        other = best.get(arm.name)
        if not other or _rank(arm) < _rank(other):
            best[arm.name] = arm
    return best


def plateau_loss(study: StudyConfig, best: Mapping[str, Arm]) -> float | None:
    """Returns the mean final loss of the arm `study.plateau`, None if it is not finished or not part of the study."""
    return average(best[study.plateau].final_losses.values()).mean if study.plateau in best else None


def escape_steps(study: StudyConfig, best: Mapping[str, Arm], arm: Arm) -> dict[int, int | None]:
    """Returns, by seed, the first validated step at which the loss is `study.escape_margin` below the plateau.

    None: the run never gets there. The dict is empty if the plateau is unknown.
    """
    plateau = plateau_loss(study, best)
    if plateau is None:
        return {}
    return {seed: result.first_step_at(plateau - study.escape_margin) for seed, result in arm.results.items()}


def steps_to_reference(study: StudyConfig, best: Mapping[str, Arm], arm: Arm) -> dict[int, int | None]:
    """Returns, by seed, the first validated step with at most the final loss of the reference with this seed."""
    if study.reference not in best:
        return {}
    reference = best[study.reference].final_losses
    return {seed: result.first_step_at(reference[seed]) for seed, result in arm.results.items() if seed in reference}


def to_json(arm: Arm) -> dict[str, Any]:
    """Returns the curves of an arm at one learning rate."""
    return {
        "arm": arm.name,
        "learning_rate": arm.learning_rate,
        "runs": [
            {
                "seed": seed,
                "diverged": not result.losses,
                "validation_loss": result.losses,
                "attention": {
                    name: {step: [float(f"{value:.4g}") for value in layers] for step, layers in steps.items()}
                    for name, steps in result.diagnostics.items()
                },
            }
            for seed, result in sorted(arm.results.items())
        ],
    }


def _rank(arm: Arm) -> tuple[int, float]:
    return -len(arm.results), average(arm.final_losses.values()).mean


def _common_steps(curves: Sequence[Mapping[int, Any]]) -> list[int]:
    return sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
