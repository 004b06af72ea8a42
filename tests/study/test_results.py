"""The statistics of a study, on losses that are made up."""

import pytest
from etils import epath

from symbert_jax.checkpoint import LOSS
from symbert_jax.compare.runs import RunCurve
from symbert_jax.config import StudyConfig
from symbert_jax.errors import UserError
from symbert_jax.study import plots, report
from symbert_jax.study.plan import plan
from symbert_jax.study.results import (
    Arm,
    average,
    escape_steps,
    paired_difference,
    select_best,
    steps_to_reference,
)

STUDY = StudyConfig(
    arms=("uniform: model.attention=uniform", "standard", "x: model.score_gain=3"), learning_rates=(1e-3, 2e-3)
)
STEPS = (10, 20, 30)


def make_arm(name: str, learning_rate: float, *losses: tuple[float, ...], num_layers: int = 2) -> Arm:
    """Returns an arm with a run per seed; one without losses diverged."""
    found = {
        run.seed: run for run in plan(STUDY, epath.Path("/x")) if (run.arm, run.learning_rate) == (name, learning_rate)
    }
    layers = range(num_layers) if name != "uniform" else ()
    statistics = {f"attention/logit_std/layer_{layer}": dict.fromkeys(STEPS, 0.1) for layer in layers}
    curves = [{LOSS: dict(zip(STEPS, each, strict=True))} | statistics if each else None for each in losses]
    runs = [curve and RunCurve(name, found[seed].config, curve) for seed, curve in enumerate(curves)]
    return Arm(name, learning_rate, dict(enumerate(runs)))


ARMS = [
    make_arm("uniform", 1e-3, (6.0, 5.5, 5.4), (6.0, 5.5, 5.6), (6.0, 5.5, 5.5)),
    make_arm("standard", 1e-3, (6.0, 5.5, 5.0), (6.0, 5.1, 4.9), (6.0, 5.5, 5.4)),
    make_arm("standard", 2e-3, (5.0, 5.0, 4.0), (5.0, 5.0, 4.0), ()),
    make_arm("x", 1e-3, (6.0, 5.0, 4.5), (6.0, 4.9, 4.2), (6.0, 5.1, 4.8)),
    make_arm("x", 2e-3, (6.0, 4.0, 4.0), (6.0, 4.0, 4.0)),
]


def test_best_learning_rate_has_all_seeds_and_none_diverged() -> None:
    best = select_best(ARMS)
    assert {name: arm.learning_rate for name, arm in best.items()} == {"uniform": 1e-3, "standard": 1e-3, "x": 1e-3}
    lower = make_arm("x", 2e-3, (6.0, 4.0, 4.0), (6.0, 4.0, 4.0), (6.0, 4.0, 4.0))
    assert select_best([*ARMS[:4], lower])["x"] is lower


def test_paired_difference_has_the_interval_of_student() -> None:
    """t of 0.975 with two degrees of freedom is 4.3027."""
    difference = paired_difference(ARMS[3].final_losses, ARMS[1].final_losses)
    assert difference.mean == pytest.approx(-0.6) and difference.deviation == pytest.approx(0.1)
    assert difference.interval() == pytest.approx(
        (-0.6 - 4.3027 * 0.1 / 3**0.5, -0.6 + 4.3027 * 0.1 / 3**0.5), abs=1e-4
    )
    assert paired_difference({0: 1.0}, {0: 3.0, 1: 2.0}).interval() is None
    assert paired_difference({0: 1.0}, {1: 1.0}) is None
    assert average([1.0, 2.0, 4.0]).deviation == pytest.approx(1.5275, abs=1e-4)


def test_escape_step_is_the_first_below_the_plateau_by_the_margin() -> None:
    """The plateau is 5.5, so the mark is 5.2."""
    best = select_best(ARMS)
    assert escape_steps(STUDY, best, best["standard"]) == {0: 30, 1: 20, 2: None}
    assert escape_steps(STUDY, best, best["x"]) == {0: 20, 1: 20, 2: 20}
    assert steps_to_reference(STUDY, best, best["x"]) == {0: 20, 1: 20, 2: 20}
    assert escape_steps(STUDY, {"standard": best["standard"]}, best["standard"]) == {}


def test_tables_show_means_differences_and_steps() -> None:
    rows = [line.split(" | ") for line in report.format_arms(STUDY, select_best(ARMS)).splitlines()]
    assert rows[2][4:] == ["5.500 ± 0.100", "+0.400 [-0.345, +1.145]", "never", "never |"]
    assert rows[3][4:] == ["5.100 ± 0.265", "", "25 ± 7 (2 of 3)", "30 ± 0 |"]
    assert rows[4][4:] == ["4.500 ± 0.300", "-0.600 [-0.848, -0.352]", "20 ± 0", "20 ± 0 |"]
    rows = report.format_learning_rates(ARMS).splitlines()
    assert rows[3:] == [
        "| standard | 5.100 ± 0.265 | 4.000 ± 0.000, 1 diverged |",
        "| x | 4.500 ± 0.300 | 4.000 ± 0.000 |",
    ]


def test_report_says_that_every_learning_rate_has_a_diverged_run(monkeypatch) -> None:
    monkeypatch.setattr(report, "collect", lambda runs: [ARMS[2]])
    with pytest.raises(UserError, match="learning_rates: found a diverged run at every learning rate of every arm in"):
        report.write_report(STUDY, [], epath.Path("/x"))


def test_plots_accept_arms_without_diagnostics_and_without_escape() -> None:
    best = select_best(ARMS)
    assert plots.plot_losses([*best.values()]).startswith(b"\x89PNG")
    assert plots.plot_escapes({"a": {0: 10, 1: None}, "b": {}}).startswith(b"\x89PNG")
    assert plots.plot_escapes({"a": {0: None}}) is None
    shallow = make_arm("x", 1e-3, (6.0, 5.0, 4.5), num_layers=1)
    assert plots.plot_diagnostics([*best.values(), shallow]).startswith(b"\x89PNG")
    assert plots.plot_diagnostics([best["uniform"]]) is None
