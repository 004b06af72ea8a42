"""The runs of a study: which there are, how they are grouped, and with which config they may continue."""

import dataclasses
from pathlib import Path

import pytest
from etils import epath

from symbert_jax.config import Config, StudyConfig, TrainConfig, to_json
from symbert_jax.errors import UserError
from symbert_jax.study import command
from symbert_jax.study.plan import check_unchanged, plan

STUDY = StudyConfig(arms=("uniform: model.attention=uniform", "standard"), seeds=2, reference="standard")


def test_names_and_rates_that_are_given_twice_count_once() -> None:
    study = dataclasses.replace(STUDY, learning_rates=(1e-3, 2e-3, 1e-3))
    assert len(plan(study, epath.Path("/x"), ["standard", "standard"])) == 4


def test_every_run_has_a_workdir_of_its_own() -> None:
    study = dataclasses.replace(STUDY, learning_rates=(1e-3, 1.0000001e-3))
    assert len({run.workdir for run in plan(study, epath.Path("/x"))}) == 8


def test_groups_are_as_large_as_the_model_of_their_arm_allows(monkeypatch) -> None:
    runs = plan(STUDY, epath.Path("/x"))
    for limits, wanted in (({"uniform": 2, "standard": 1}, [2, 1, 1]), ({"uniform": 1, "standard": 1}, [1] * 4)):
        monkeypatch.setattr(command, "_limit", lambda config, run, limits=limits: limits[run.arm])
        assert [len(group) for group in command._groups(STUDY, runs)] == wanted


@pytest.mark.parametrize("trace", ["checkpoints/5", "diverged.txt"])
def test_run_that_has_started_keeps_its_config(trace: str, tmp_path: Path) -> None:
    """The config of the study changes after the run was stopped, or has diverged."""
    run = plan(STUDY, epath.Path(tmp_path))[0]
    run.workdir.mkdir(parents=True)
    (run.workdir / "config.json").write_text(to_json(run.config))
    other = run._replace(config=Config(train=TrainConfig(steps=4), model=run.config.model, optim=run.config.optim))
    check_unchanged(other)  # it starts anew
    (run.workdir / trace).mkdir(parents=True)
    check_unchanged(run)
    with pytest.raises(UserError, match=f"train.steps: found 200000 in {run.workdir}, wanted 4; use a new workdir"):
        check_unchanged(other)
