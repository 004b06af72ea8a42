"""What the runs of a study measured, and its statistics over seeds."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from scipy import stats

from symbert_jax.compare.attention import read_statistics
from symbert_jax.compare.runs import RunCurve, read_run
from symbert_jax.config import StudyConfig
from symbert_jax.study.plan import Run

CONFIDENCE = 0.95  # of the intervals


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
    """The finished runs of an arm at one learning rate."""

    name: str
    learning_rate: float
    runs: dict[int, RunCurve | None]  # by seed; None: the run diverged

    @property
    def num_diverged(self) -> int:
        return len(self.runs) - len(self.curves)

    @property
    def curves(self) -> dict[int, RunCurve]:
        """The runs that did not diverge, by seed."""
        return {seed: run for seed, run in self.runs.items() if run}

    @property
    def final_losses(self) -> dict[int, float]:
        return {seed: run.final_loss for seed, run in self.curves.items()}

    @property
    def mean_losses(self) -> dict[int, Mean]:
        """The mean loss over seeds by step, at the steps at which all seeds were validated."""
        curves = [run.losses for run in self.curves.values()]
        return {step: average([curve[step] for curve in curves]) for step in _common_steps(curves)}

    def diagnostics(self, name: str) -> dict[int, list[float]]:
        """Returns the mean over seeds of a statistic of attention: the values of all layers by step."""
        curves = [layers for run in self.curves.values() if (layers := read_statistics(run).get(name))]
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


def collect(runs: Sequence[Run]) -> list[Arm]:
    """Returns every arm and learning rate that has a finished run, in the order of the study."""
    arms: dict[tuple[str, float], Arm] = {}
    for run in runs:
        if run.is_finished:
            arm = arms.setdefault((run.arm, run.learning_rate), Arm(run.arm, run.learning_rate, {}))
            arm.runs[run.seed] = None if run.has_diverged else read_run(run.workdir, run.name)
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
    return {seed: run.first_step_at(plateau - study.escape_margin) for seed, run in arm.curves.items()}


def steps_to_reference(study: StudyConfig, best: Mapping[str, Arm], arm: Arm) -> dict[int, int | None]:
    """Returns, by seed, the first validated step with at most the final loss of the reference with this seed."""
    if study.reference not in best:
        return {}
    reference = best[study.reference].final_losses
    return {seed: run.first_step_at(reference[seed]) for seed, run in arm.curves.items() if seed in reference}


def to_json(arm: Arm) -> dict[str, Any]:
    """Returns the curves of an arm at one learning rate."""
    return {
        "arm": arm.name,
        "learning_rate": arm.learning_rate,
        "runs": [
            {
                "seed": seed,
                "diverged": run is None,
                "validation_loss": run.losses if run else {},
                "attention": {
                    name: {step: [float(f"{value:.4g}") for value in layers] for step, layers in steps.items()}
                    for name, steps in (read_statistics(run) if run else {}).items()
                },
            }
            for seed, run in sorted(arm.runs.items())
        ],
    }


def _rank(arm: Arm) -> tuple[int, float]:
    return -len(arm.runs), average(arm.final_losses.values()).mean


def _common_steps(curves: Sequence[Mapping[int, Any]]) -> list[int]:
    return sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
