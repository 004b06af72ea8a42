"""Tables and files from known results."""

import json

import numpy as np
import pytest
from etils import epath

from symbert_jax.eval import report, trials
from symbert_jax.eval.tasks import TASKS
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
    results = [result("rte", seed, rate, accuracy=value) for rate, seed, value in
              ((1e-5, 0, 0.9), (1e-5, 1, 0.5), (2e-5, 0, 0.8), (2e-5, 1, 0.7))]  # fmt: skip
    best = report.summarise(results)
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
    both = [scored(step, name) for name in ("runs/$a", "_runs/b$") for step in (10, 20)]
    report.plot_sweep(both, tmp_path / "sweep.png")
    report.plot_tasks(both, tmp_path / "scores.png")
    assert min(len(path.read_bytes()) for path in tmp_path.iterdir()) > 1000


def test_trial_line_has_settings_and_scores() -> None:
    assert report.trial_line(result("rte", 0, accuracy=0.5)) == "rte  lr 1e-05  batch 16  seed 0  accuracy 50.0  2 s"
    line = report.trial_line(result("mnli", 2, accuracy=0.5))
    assert line.endswith("seed 2  matched accuracy 50.0  mismatched accuracy 50.0  collapsed  2 s")


def test_log_keeps_results_and_drops_cut_line(tmp_path) -> None:
    tmp_path = epath.Path(tmp_path)
    Log(tmp_path, write=True).add([result("rte", 0, accuracy=0.5), result("rte", 1, accuracy=0.6)])
    with (tmp_path / "trials.jsonl").open("a") as file:
        file.write('[{"trial"')
    log = Log(tmp_path, write=True)
    assert [each.trial.seed for each in log.results.values()] == [0, 1]
    log.add([result("rte", 2, accuracy=0.7)])
    assert len(Log(tmp_path, write=False).results) == 3


def _change(facts: dict, **changes: object) -> str:
    """A line of trials.jsonl whose checksum fits, as if a program had written it so."""
    facts |= changes
    return json.dumps([facts | {"checksum": trials._checksum(facts)}])


DAMAGE = {
    "a flipped digit": lambda line, _: line.replace("0.625", "0.725"),
    "a flipped key": lambda line, _: line.replace("checksum", "checksun"),
    "no JSON": lambda line, _: line[: len(line) // 2],
    "no UTF-8": lambda line, _: line.replace("rte", "r\udcffe"),
    "no list": lambda _, facts: json.dumps(facts),
    "no objects": lambda *_: "[1]",
    "too deep": lambda *_: "[" * 100_000,
    "other fields": lambda _, facts: _change(facts, more=1),
    "a string for a number": lambda _, facts: _change(facts, seconds="1.5"),
    "a list for an object": lambda _, facts: _change(facts, scores=[0.625]),
    "NaN": lambda _, facts: _change(facts, seconds=float("nan")),
    "a score above 1": lambda _, facts: _change(facts, scores={"validation": {"accuracy": 1.5}}),
    "a score without metric": lambda _, facts: _change(facts, scores={"validation": 0.5}),
    "another split": lambda _, facts: _change(facts, scores={"test": {"accuracy": 0.5}}),
    "another task": lambda _, facts: _change(facts, trial=facts["trial"] | {"task": "rtf"}),
    "no trial": lambda _, facts: _change(facts, trial=None),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_log_ignores_and_keeps_damaged_line(tmp_path, capsys, name) -> None:
    file = tmp_path / "trials.jsonl"
    for seed, accuracy in ((0, 0.5), (1, 0.625), (2, 0.75)):
        Log(epath.Path(tmp_path), write=True).add([result("rte", seed, accuracy=accuracy)])
    first, damaged, last = file.read_text().splitlines()
    (facts,) = json.loads(damaged)
    del facts["checksum"]
    damaged = DAMAGE[name](damaged, facts)
    content = "\n".join([first, damaged, last, ""]).encode(errors="surrogateescape")
    file.write_bytes(content)
    log = Log(epath.Path(tmp_path), write=True)
    assert [each.trial.seed for each in log.results.values()] == [0, 2] and file.read_bytes() == content
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {file}, line 2: ") and line.endswith("; its trials train again")


def test_log_accepts_result_without_checksum(tmp_path) -> None:
    """As earlier versions wrote it."""
    Log(epath.Path(tmp_path), write=True).add([result("rte", 0, accuracy=0.5)])
    (facts,) = json.loads((tmp_path / "trials.jsonl").read_text())
    del facts["checksum"]
    (tmp_path / "trials.jsonl").write_text(json.dumps([facts]) + "\n")
    assert list(Log(epath.Path(tmp_path), write=False).results.values()) == [result("rte", 0, accuracy=0.5)]
