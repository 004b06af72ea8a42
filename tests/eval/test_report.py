"""Tables and files from known results."""

import numpy as np
import pytest
from etils import epath

from symbert_jax.data.tasks import TASKS
from symbert_jax.eval import report
from symbert_jax.eval.trials import Log, Result, Trial
from tests.eval.conftest import CONFIG


def result(task: str, seed: int, rate: float = 1e-5, **metrics: float) -> Result:
    trial = Trial("c", "d", task, 16, rate, seed, "{}")
    scores = {split.name: metrics for split in TASKS[task].validation}
    return Result(trial, scores, seed == 2, 5, 1.5)


def scored(step: int = 10, name: str = "runs/a") -> report.Scored:
    results = {
        TASKS["mrpc"]: [result("mrpc", seed, accuracy=0.7 + seed / 10, f1=0.8) for seed in range(3)],
        TASKS["mnli"]: [result("mnli", seed, accuracy=0.5 + seed / 10) for seed in range(3)],
        TASKS["wnli"]: [result("wnli", 0, accuracy=0.25)],
    }
    return report.Scored(name, step, "f" * 64, CONFIG.model, results)


def test_the_table_has_scores_and_means() -> None:
    head, _, row = report.table([scored()]).splitlines()
    assert head == "| checkpoint | MRPC | MNLI-matched | MNLI-mismatched | WNLI | mean of 3 | with WNLI |"
    assert row == "| runs/a @ 10 | 80.0 | 60.0 | 60.0 | 25.0 | 66.67 | 56.25 |"


def test_details_have_deviation_median_and_collapsed_runs() -> None:
    text = report.details(scored())
    assert "| MRPC | accuracy | 80.0 ± 10.0 | 80.0 | 1 of 3 | 1e-05 | 16 |" in text
    assert "| WNLI | accuracy | 25.0 | 25.0 | 0 of 1 | 1e-05 | 16 |" in text


def test_the_best_setting_is_the_one_with_the_best_mean() -> None:
    trials = [result("rte", seed, rate, accuracy=value) for rate, seed, value in
              ((1e-5, 0, 0.9), (1e-5, 1, 0.5), (2e-5, 0, 0.8), (2e-5, 1, 0.7))]  # fmt: skip
    best = report.summarise(trials)
    assert best.learning_rate == 2e-5 and best.scores["validation"] == pytest.approx([80, 70])


def test_submissions() -> None:
    assert report.submission(TASKS["rte"], np.array([0, 1])) == "index\tprediction\n0\tentailment\n1\tnot_entailment\n"
    assert report.submission(TASKS["stsb"], np.array([5.2, -1.0])) == "index\tprediction\n0\t5.000\n1\t0.000\n"


def test_where_a_line_crosses_75() -> None:
    assert report.crossing({10: 70.0, 20: 80.0, 30: 85.0}) == 15
    assert report.crossing({10: 76.0, 20: 80.0}) == 10
    assert report.crossing({10: 70.0, 20: 74.9}) is None


def test_plots_of_several_workdirs(tmp_path) -> None:
    tmp_path = epath.Path(tmp_path)
    both = [scored(step, name) for name in ("runs/a", "runs/b") for step in (10, 20)]
    report.plot_sweep(both, tmp_path / "sweep.png")
    report.plot_tasks(both, tmp_path / "scores.png")
    assert min(len(path.read_bytes()) for path in tmp_path.iterdir()) > 1000


def test_the_log_remembers_and_mends_a_cut_line(tmp_path) -> None:
    tmp_path = epath.Path(tmp_path)
    Log(tmp_path, write=True).add([result("rte", 0, accuracy=0.5), result("rte", 1, accuracy=0.6)])
    with (tmp_path / "trials.jsonl").open("a") as file:
        file.write('[{"trial"')
    log = Log(tmp_path, write=True)
    assert [each.trial.seed for each in log.results.values()] == [0, 1]
    log.add([result("rte", 2, accuracy=0.7)])
    assert len(Log(tmp_path, write=False).results) == 3
