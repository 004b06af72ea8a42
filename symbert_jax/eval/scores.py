"""GLUE's metrics with the benchmark's definitions, from scikit-learn and scipy, and its means."""

import math
import warnings
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Num
from scipy import stats
from sklearn import metrics as sklearn

from symbert_jax.eval.tasks import Task

PAPER = 9  # scores in the paper's mean: all tasks but WNLI and AX, both parts of MNLI

Predictions = Num[np.ndarray, " rows"]  # class ids, or the values of a regression


def decide(task: Task, logits: Float[np.ndarray, "rows C"]) -> Predictions:
    """The class with the largest logit, or the value itself."""
    return logits.argmax(axis=-1) if task.classes else logits[:, 0]


def measure(task: Task, predictions: Predictions, labels: Predictions) -> dict[str, float]:
    """Every metric of the task, as a fraction."""
    return {name: _METRICS[name](labels, predictions) for name in task.metrics}


def collapsed(task: Task, predictions: Predictions, labels: Predictions) -> bool:
    """Whether a model is no better than a constant answer (Mosbach et al., 2021, section 4)."""
    if not task.classes:
        return not _correlation(stats.pearsonr)(labels, predictions) > 0
    constant = np.bincount(labels.astype(int)).max() / len(labels)
    return bool(np.mean(predictions == labels) <= constant)


def score(metrics: Mapping[str, float]) -> float:
    """The one number, 0 to 100, that a split of a task counts with: the mean of its metrics."""
    return 100 * sum(metrics.values()) / len(metrics)


def means(scores: Mapping[tuple[Task, str], float]) -> dict[str, float]:
    """Of scores by task and split: the mean over those that the paper counts, and with WNLI where it is there.

    `glue` is the paper's mean, present only where all nine are; `mean` is over as many as there are.
    """
    paper = [value for (task, _), value in scores.items() if task.in_paper_mean]
    found = {}
    if paper:
        found["mean"] = sum(paper) / len(paper)
    if len(paper) == PAPER:
        found["glue"] = found["mean"]
    if len(paper) < len(scores):
        found["mean_with_wnli"] = sum(scores.values()) / len(scores)
    return found


def _correlation(function):  # type: ignore[no-untyped-def]
    """A correlation of something constant is none at all: 0, as a model without any skill has."""

    def correlate(labels: Predictions, predictions: Predictions) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.ConstantInputWarning)
            value = float(function(labels, predictions)[0])
        return 0.0 if math.isnan(value) else value

    return correlate


_METRICS = {
    "accuracy": lambda labels, predictions: float(sklearn.accuracy_score(labels, predictions)),
    "f1": lambda labels, predictions: float(sklearn.f1_score(labels, predictions)),
    "matthews": lambda labels, predictions: float(sklearn.matthews_corrcoef(labels, predictions)),
    "pearson": _correlation(stats.pearsonr),
    "spearman": _correlation(stats.spearmanr),
}
