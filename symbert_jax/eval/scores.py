"""GLUE's metrics as the benchmark defines them, computed by scikit-learn and scipy, and means of scores."""

import math
import warnings
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Num
from scipy import stats
from sklearn import metrics as sklearn_metrics

from symbert_jax.eval.tasks import Task

NUM_PAPER_SCORES = 9  # the paper averages all tasks but WNLI and AX, with two scores for MNLI

Predictions = Num[np.ndarray, " rows"]  # class ids, or the values of a regression; also the type of labels


def to_predictions(task: Task, logits: Float[np.ndarray, "rows C"]) -> Predictions:
    """Returns the class with the largest logit, or the value of a regression."""
    return logits.argmax(axis=-1) if task.classes else logits[:, 0]


def compute_metrics(task: Task, predictions: Predictions, labels: Predictions) -> dict[str, float]:
    """Returns every metric of the task, as a fraction."""
    return {name: _METRICS[name](labels, predictions) for name in task.metrics}


def is_collapsed(task: Task, predictions: Predictions, labels: Predictions) -> bool:
    """Whether a model is no better than a constant prediction (Mosbach et al., 2021, section 4).

    The constant is the most frequent label. A regression is better if it correlates positively with the labels.
    """
    if not task.classes:
        return not _correlation(stats.pearsonr)(labels, predictions) > 0
    constant_accuracy = np.bincount(labels.astype(int)).max() / len(labels)
    return bool(np.mean(predictions == labels) <= constant_accuracy)


def compute_score(metrics: Mapping[str, float]) -> float:
    """Returns the score of a split, 0 to 100: the mean of its metrics."""
    return 100 * sum(metrics.values()) / len(metrics)


def compute_means(scores: Mapping[tuple[Task, str], float]) -> dict[str, float]:
    """Returns the means of the scores, by name; an empty dict if no task but WNLI has a score.

    `mean` is over those of the paper's nine scores that are given. If all nine are given, `glue` is the same mean.
    If WNLI is given, `mean_with_wnli` is over all scores.
    """
    in_paper = [score for (task, _), score in scores.items() if task.in_paper_mean]
    if not in_paper:
        return {}
    means = {"mean": sum(in_paper) / len(in_paper)}
    if len(in_paper) == NUM_PAPER_SCORES:
        means["glue"] = means["mean"]
    if len(in_paper) < len(scores):
        means["mean_with_wnli"] = sum(scores.values()) / len(scores)
    return means


def _correlation(function):  # type: ignore[no-untyped-def]
    """Wraps a correlation of scipy to return 0 where there is none: for constant predictions, or for one example."""

    def correlate(labels: Predictions, predictions: Predictions) -> float:
        if len(labels) < 2:
            return 0.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.ConstantInputWarning)
            value = float(function(labels, predictions)[0])
        return 0.0 if math.isnan(value) else value

    return correlate


_METRICS = {
    "accuracy": lambda labels, predictions: float(sklearn_metrics.accuracy_score(labels, predictions)),
    "f1": lambda labels, predictions: float(sklearn_metrics.f1_score(labels, predictions)),
    "matthews": lambda labels, predictions: float(sklearn_metrics.matthews_corrcoef(labels, predictions)),
    "pearson": _correlation(stats.pearsonr),
    "spearman": _correlation(stats.spearmanr),
}
