"""Tables, plots and trials.jsonl of given results."""

import json

import numpy as np
import pytest
from etils import epath

from symbert_jax.eval import report, trials
from symbert_jax.eval.tasks import TASKS
from symbert_jax.eval.trials import Trial, TrialLog, TrialResult
from tests.eval.conftest import CONFIG


def make_result(
    task: str, seed: int, learning_rate: float = 1e-5, weight_decay: float = 0.01, **metrics: float
) -> TrialResult:
    """Returns the result of a trial; the trial of seed 2 has collapsed. All validation splits have these metrics."""
    protocol = json.dumps({"epochs": 5, "optim": {"weight_decay": weight_decay}})
    trial = Trial("c", "d", task, batch_size=16, learning_rate=learning_rate, seed=seed, protocol=protocol)
    scores = {split.name: metrics for split in TASKS[task].validation}
    return TrialResult(trial, scores, collapsed=seed == 2, epoch=5, seconds=1.5)


def make_checkpoint(step: int = 10, name: str = "runs/a", tasks=("mrpc", "mnli", "wnli")) -> report.ScoredCheckpoint:
    results = {
        "mrpc": [make_result("mrpc", seed, accuracy=0.7 + seed / 10, f1=0.8) for seed in range(3)],
        "mnli": [make_result("mnli", seed, accuracy=0.5 + seed / 10) for seed in range(3)],
        "wnli": [make_result("wnli", seed=0, accuracy=0.25)],
    }
    return report.ScoredCheckpoint(name, step, "f" * 64, CONFIG.model, {TASKS[task]: results[task] for task in tasks})


@pytest.mark.parametrize(
    ("tasks", "head", "row"),
    [
        (("mrpc", "mnli"), "MRPC | MNLI-matched | MNLI-mismatched | mean of 3", "80.0 | 60.0 | 60.0 | 66.67"),
        (("mrpc", "wnli"), "MRPC | WNLI | mean of 1 | mean of 2 with WNLI", "80.0 | 25.0 | 80.00 | 52.50"),
        (("wnli",), "WNLI", "25.0"),
    ],
)
def test_table_names_means_by_their_scores(tasks, head, row) -> None:
    table = report.format_scores([make_checkpoint(tasks=tasks)])
    assert table.splitlines()[::2] == [f"| checkpoint | {head} |", f"| runs/a @ 10 | {row} |"]


def test_details_have_deviation_median_and_collapsed_trials() -> None:
    text = report.format_details(make_checkpoint())
    assert "| MRPC | accuracy | 80.0 ± 10.0 | 80.0 | 1 of 3 | 1e-05 | 16 | 0.01 | 5 |" in text
    assert "| WNLI | accuracy | 25.0 | 25.0 | 0 of 1 | 1e-05 | 16 | 0.01 | 5 |" in text


def test_best_setting_has_best_mean() -> None:
    results = [make_result("rte", seed, learning_rate, accuracy=value) for learning_rate, seed, value in
              ((1e-5, 0, 0.9), (1e-5, 1, 0.5), (2e-5, 0, 0.8), (2e-5, 1, 0.7))]  # fmt: skip
    best = report.find_best_setting(results)
    assert best.setting.learning_rate == 2e-5 and best.scores["validation"] == pytest.approx([80, 70])
    better = make_result("rte", seed=0, learning_rate=2e-5, weight_decay=0.1, accuracy=0.85)
    assert report.find_best_setting([*results, better]).setting == (2e-5, 16, 0.1, 5)


def test_submission_has_class_names_and_clipped_finite_values() -> None:
    classes, values = (report.format_submission(TASKS[name], np.array(predictions)).split("\n")
                       for name, predictions in (("rte", [0, 1]), ("stsb", [5.2, -1.0, np.nan])))  # fmt: skip
    assert classes == ["index\tprediction", "0\tentailment", "1\tnot_entailment", ""]
    assert values == ["index\tprediction", "0\t5.000", "1\t0.000", "2\t0.000", ""]


def test_crossing_is_interpolated() -> None:
    """CROSSING is 75."""
    assert report.find_crossing({10: 70.0, 20: 80.0, 30: 85.0}) == 15
    assert report.find_crossing({10: 76.0, 20: 80.0}) == 10
    assert report.find_crossing({10: 70.0, 20: 74.9}) is None


def test_plots_label_means_and_odd_workdirs(tmp_path, monkeypatch) -> None:
    all_axes, subplots = [], report.plt.subplots

    def recording_subplots(**arguments):
        figure, axes = subplots(**arguments)
        all_axes.append(axes)
        return figure, axes

    monkeypatch.setattr(report.plt, "subplots", recording_subplots)
    tmp_path = epath.Path(tmp_path)
    several = [make_checkpoint(step, name) for name in ("runs/$a", "_runs/b$") for step in (10, 20)]
    report.plot_sweep(several, tmp_path / "sweep.png")
    report.plot_sweep([make_checkpoint(tasks=("wnli",))], tmp_path / "wnli.png")
    report.plot_sweep([make_checkpoint(0, tasks=("mrpc",))], tmp_path / "imported.png")
    report.plot_tasks(several, tmp_path / "scores.png")
    assert [axes.get_ylabel() for axes in all_axes[:2]] == ["mean of 3", "WNLI"]
    assert [label.get_text() for label in all_axes[0].get_legend().get_texts()] == [
        " runs/$a: below 75",
        " _runs/b$: below 75",
    ]
    assert all_axes[2].get_legend().get_texts()[0].get_text() == " runs/a: 75 at step 0"
    assert min(len(path.read_bytes()) for path in tmp_path.iterdir()) > 1000


def test_format_trial_has_settings_and_scores() -> None:
    line = report.format_trial(make_result("rte", seed=0, accuracy=0.5))
    assert line == "rte  lr 1e-05  batch 16  decay 0.01  epochs 5  seed 0  accuracy 50.0  2 s"
    line = report.format_trial(make_result("mnli", seed=2, accuracy=0.5))
    assert line.endswith("seed 2  matched accuracy 50.0  mismatched accuracy 50.0  collapsed  2 s")


def test_trial_log_keeps_results_and_drops_truncated_line(tmp_path) -> None:
    tmp_path = epath.Path(tmp_path)
    TrialLog(tmp_path, is_writer=True).add([make_result("rte", seed, accuracy=0.5) for seed in (0, 1)])
    with (tmp_path / "trials.jsonl").open("a") as file:
        file.write('[{"trial"')
    log = TrialLog(tmp_path, is_writer=True)
    assert [result.trial.seed for result in log.results.values()] == [0, 1]
    log.add([make_result("rte", seed=2, accuracy=0.7)])
    assert len(TrialLog(tmp_path, is_writer=False).results) == 3


def change(fields: dict, **changes: object) -> str:
    """Returns a line of trials.jsonl with changed fields and a matching checksum."""
    fields |= changes
    return json.dumps([fields | {"checksum": trials._checksum(fields)}])


# functions of the line and its fields, without the checksum, that return the damaged line
DAMAGE = {
    "a flipped digit": lambda line, _: line.replace("0.625", "0.725"),
    "a flipped key": lambda line, _: line.replace("checksum", "checksun"),
    "not JSON": lambda line, _: line[: len(line) // 2],
    "not UTF-8": lambda line, _: line.replace("rte", "r\udcffe"),
    "not a list": lambda _, fields: json.dumps(fields),
    "a number for a result": lambda *_: "[1]",
    "too deep": lambda *_: "[" * 100_000,
    "other fields": lambda _, fields: change(fields, more=1),
    "a string for a number": lambda _, fields: change(fields, seconds="1.5"),
    "a list for an object": lambda _, fields: change(fields, scores=[0.625]),
    "NaN": lambda _, fields: change(fields, seconds=float("nan")),
    "a score above 1": lambda _, fields: change(fields, scores={"validation": {"accuracy": 1.5}}),
    "a score without metric": lambda _, fields: change(fields, scores={"validation": 0.5}),
    "another split": lambda _, fields: change(fields, scores={"test": {"accuracy": 0.5}}),
    "another task": lambda _, fields: change(fields, trial=fields["trial"] | {"task": "rtf"}),
    "no trial": lambda _, fields: change(fields, trial=None),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_trial_log_ignores_and_keeps_damaged_line(tmp_path, capsys, name) -> None:
    file = tmp_path / "trials.jsonl"
    for seed, accuracy in ((0, 0.5), (1, 0.625), (2, 0.75)):
        TrialLog(epath.Path(tmp_path), is_writer=True).add([make_result("rte", seed, accuracy=accuracy)])
    first, damaged, last = file.read_text().splitlines()
    (fields,) = json.loads(damaged)
    del fields["checksum"]
    damaged = DAMAGE[name](damaged, fields)
    content = "\n".join([first, damaged, last, ""]).encode(errors="surrogateescape")
    file.write_bytes(content)
    log = TrialLog(epath.Path(tmp_path), is_writer=True)
    assert [result.trial.seed for result in log.results.values()] == [0, 2] and file.read_bytes() == content
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {file}, line 2: ") and line.endswith("; its trials are trained again")


def test_trial_log_accepts_result_without_checksum(tmp_path) -> None:
    """Earlier versions wrote no checksum."""
    result = make_result("rte", seed=0, accuracy=0.5)
    TrialLog(epath.Path(tmp_path), is_writer=True).add([result])
    (fields,) = json.loads((tmp_path / "trials.jsonl").read_text())
    del fields["checksum"]
    (tmp_path / "trials.jsonl").write_text(json.dumps([fields]) + "\n")
    assert list(TrialLog(epath.Path(tmp_path), is_writer=False).results.values()) == [result]
