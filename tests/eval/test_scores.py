"""Metrics, which equal those of Hugging Face's `glue` metric on fixed predictions, and means."""

import numpy as np
import pytest

from symbert_jax.eval import scores
from symbert_jax.eval.tasks import TASKS

# From transformers 4.57's glue_compute_metrics (the code of the `evaluate` metric `glue`) for `make_predictions`.
# If the benchmark's definition changes, compute them again with that function.
EXPECTED = {
    "cola": {"matthews": 0.5974235104669887},
    "sst2": {"accuracy": 0.8},
    "mrpc": {"accuracy": 0.8, "f1": 0.8148148148148148},
    "qqp": {"accuracy": 0.8, "f1": 0.8148148148148148},
    "stsb": {"pearson": 0.7016693824217486, "spearman": 0.6995124481772221},
    "mnli": {"accuracy": 0.58},
    "qnli": {"accuracy": 0.8},
    "rte": {"accuracy": 0.8},
    "wnli": {"accuracy": 0.8},
}


def make_predictions(classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns predictions and labels of 50 examples; 0 classes is a regression."""
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 2, 50)
    predictions = np.where(rng.random(50) < 0.7, labels, 1 - labels)
    if classes == 2:
        return predictions, labels
    labels = rng.integers(0, 3, 50)
    predictions = np.where(rng.random(50) < 0.6, labels, (labels + 1) % 3)
    if classes == 3:
        return predictions, labels
    labels = np.round(rng.random(50) * 5, 1)
    return labels + rng.normal(0, 1.5, 50), labels


@pytest.mark.parametrize("name", EXPECTED)
def test_metrics_equal_those_of_hugging_face(name) -> None:
    task = TASKS[name]
    assert scores.compute_metrics(task, *make_predictions(len(task.classes))) == pytest.approx(
        EXPECTED[name], abs=1e-12
    )


def test_constant_predictions_score_zero_and_are_collapsed() -> None:
    labels = make_predictions(0)[1]
    constant = np.full(50, 2.5)
    assert scores.compute_metrics(TASKS["stsb"], constant, labels) == {"pearson": 0.0, "spearman": 0.0}
    assert scores.compute_metrics(TASKS["stsb"], constant[:1], labels[:1]) == {"pearson": 0.0, "spearman": 0.0}
    assert scores.is_collapsed(TASKS["stsb"], constant, labels)
    assert not scores.is_collapsed(TASKS["stsb"], *make_predictions(0))
    _, classes = make_predictions(2)
    assert scores.is_collapsed(TASKS["cola"], np.full(50, np.bincount(classes).argmax()), classes)
    assert not scores.is_collapsed(TASKS["cola"], *make_predictions(2))


def test_to_predictions_takes_largest_logit_or_value() -> None:
    logits = np.array([[0.1, 0.2, 0.0], [3.0, -1.0, 2.0]], np.float32)
    assert scores.to_predictions(TASKS["mnli"], logits).tolist() == [1, 0]
    assert scores.to_predictions(TASKS["stsb"], logits[:, :1]).tolist() == logits[:, 0].tolist()


def test_paper_mean_is_over_nine_scores() -> None:
    """Eight of the nine scores are 50 and one is 95; that of WNLI is 0."""
    split_scores = {(task, split.name): 50.0 for task in TASKS.values() for split in task.validation}
    split_scores[TASKS["wnli"], "validation"] = 0.0
    split_scores[TASKS["mnli"], "validation_matched"] = 95.0
    assert scores.compute_means(split_scores) == pytest.approx({"mean": 55, "glue": 55, "mean_with_wnli": 49.5})
    del split_scores[TASKS["qqp"], "validation"]
    assert "glue" not in scores.compute_means(split_scores)
    assert scores.compute_means({(TASKS["wnli"], "validation"): 50.0}) == {}


def test_score_is_mean_of_metrics() -> None:
    assert scores.compute_score({"accuracy": 0.8, "f1": 0.6}) == pytest.approx(70)
