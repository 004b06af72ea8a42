"""The `study` command trains what is missing, in any order and side by side, and reports means and differences."""

import dataclasses
import functools
import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

from symbert_jax import metrics
from symbert_jax.checkpoint import load
from symbert_jax.config import StudyConfig
from symbert_jax.errors import UserError
from symbert_jax.sharding import make_mesh
from symbert_jax.storage import lock
from symbert_jax.study import command
from symbert_jax.study.command import study
from symbert_jax.study.plan import plan
from symbert_jax.train import loop, phases
from tests.conftest import configure, write_corpus
from tests.forked import ForkedCommand

STATISTICS = {f"attention/{name}/layer_{layer}" for name in ("logit_std", "entropy", "symmetry") for layer in range(1)}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> StudyConfig:
    """A tiny study of two arms and two seeds."""
    train = {"steps": 6, "log_every": 3, "validate_every": 2, "validate_batches": 1, "checkpoint_every": 2}
    base = configure(
        model={"layers": 1, "dim": 16, "mlp_dim": 16},
        data={"dir": str(write_corpus(tmp_path_factory.mktemp("study") / "corpus")), "batch_size": 8},
        optim={"warmup_steps": 1, "ema": 0.5, "clip": 0.0},
        train=train | {"keep_latest": 1},
    )
    arms = ("uniform: model.attention=uniform", "standard")
    return StudyConfig(base=base, arms=arms, seeds=2, learning_rates=(1e-2,), escape_margin=1e-4)


@pytest.fixture(scope="module", autouse=True)
def shared_programs() -> Iterator[None]:
    """Lets runs share programs, even small ones, which a study removes from memory; one device compiles faster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "clear_caches", lambda: None)
        patch.setattr(loop, "make_mesh", lambda mesh: make_mesh(mesh, jax.devices()[:1]))
        for module, make in ((phases, "make_train_step"), (loop, "make_validation_step")):
            patch.setattr(module, make, functools.cache(getattr(module, make)))
        yield


@pytest.fixture(scope="module")
def finished(config: StudyConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of the study, whose runs were trained one by one."""
    workdir = tmp_path_factory.mktemp("one_by_one")
    study(config, epath.Path(workdir))
    return workdir


def curve(workdir: Path) -> list[dict]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith("speed/")} for line in lines]


def runs(workdir: Path) -> dict[str, Path]:
    return {str(path.parent.relative_to(workdir)): path.parent for path in workdir.rglob("config.json")}


def test_study_trains_every_arm_rate_and_seed_as_pretrain_does(config, finished, tmp_path) -> None:
    names = {f"runs/{arm}/lr_0.01/seed_{seed}" for arm in ("uniform", "standard") for seed in (0, 1)}
    assert set(runs(finished)) == names
    one = next(run for run in plan(config, epath.Path(tmp_path)) if run.name == "standard, learning rate 0.01, seed 1")
    loop.pretrain(one.config, one.workdir)
    assert curve(Path(one.workdir)) == curve(finished / "runs/standard/lr_0.01/seed_1")
    validations = [line for line in curve(Path(one.workdir)) if "validation/loss" in line]
    assert all(line.keys() >= STATISTICS for line in validations) and len(validations) == 3
    uniform = curve(finished / "runs/uniform/lr_0.01/seed_0")
    assert not any(name.startswith("attention/") for line in uniform for name in line)


def test_runs_side_by_side_equal_runs_one_by_one(config, finished, tmp_path, monkeypatch, capsys) -> None:
    """The runs of the arm start together, are stopped, lose the last checkpoint of one, and continue."""
    parallel = dataclasses.replace(config, parallel=2)
    monkeypatch.setattr(loop.Stop, "should_stop", lambda self, step: "SIGTERM" * (step == 3))
    study(parallel, epath.Path(tmp_path), ["standard"])
    output = capsys.readouterr().out
    assert re.search(r"compiling validation …\ncompiling the statistics of attention …\nstep 2 validation", output)
    assert "no run is finished yet" in output and not (tmp_path / "report.md").exists()
    with pytest.raises(UserError, match="workdir: found no finished run in"):
        study(parallel, epath.Path(tmp_path), report=True)
    monkeypatch.undo()
    workdirs = runs(tmp_path)
    assert len(workdirs) == 2 and {p.name for w in workdirs.values() for p in (w / "checkpoints").iterdir()} == {
        "2",
        "3",
    }
    shutil.rmtree(workdirs["runs/standard/lr_0.01/seed_1"] / "checkpoints" / "3")
    study(parallel, epath.Path(tmp_path), ["standard"])
    for name, workdir in workdirs.items():
        found, wanted = curve(workdir), curve(finished / name)
        assert [line.keys() for line in found] == [line.keys() for line in wanted]
        for line, wanted_line in zip(found, wanted, strict=True):
            for key in line:
                assert line[key] == pytest.approx(wanted_line[key], rel=1e-3, abs=1e-5), (name, line["step"], key)
        params = [load(epath.Path(where))[0] for where in (workdir, finished / name)]
        for found_params in params:
            del found_params["layers"]["attention"]["key"]["bias"]  # no gradient but rounding, which AdamW scales up
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), *params)


# A config file of the study whose config stands in the file in its place.
CONFIG_FILE = """from symbert_jax import config

def get_config():
    c = config.default_study()
    c.update({})
    return c
"""


def test_killed_study_trains_only_what_is_missing(config, finished, tmp_path, monkeypatch, capsys) -> None:
    """The study lacks both runs of an arm. It is killed after the third step of the first of them."""
    shutil.copytree(finished, tmp_path / "study")
    workdir = epath.Path(tmp_path / "study")
    lost = [tmp_path / f"study/runs/standard/lr_0.01/seed_{seed}" for seed in (0, 1)]
    wanted = [curve(each) for each in lost]
    for each in lost:
        shutil.rmtree(each)
    (tmp_path / "study.py").write_text(CONFIG_FILE.format(dataclasses.asdict(config)))
    command_line = ["study", f"--config={tmp_path}/study.py", f"--workdir={workdir}"]
    environment = {"KILLED": str(workdir), "KILLED_AFTER": "3", "JAX_PLATFORMS": "cpu"}
    killed = ForkedCommand(command_line, os.environ | environment)
    output, _ = killed.communicate(timeout=200)
    assert killed.returncode == -signal.SIGKILL and "run 2 of 4: standard, learning rate 0.01, seed 0\n" in output, (
        output
    )
    assert "run 1 of" not in output and "run 4 of" not in output and not lost[1].exists()
    saved = [path.name for path in (lost[0] / "checkpoints").iterdir() if path.name.isdigit()]
    trained = []

    def pretrain(config, workdir):
        trained.append(workdir)
        loop.pretrain(config, workdir)

    monkeypatch.setattr(command, "pretrain", pretrain)
    study(config, workdir, report=True)
    assert not trained and "2 of 4 runs are finished" in capsys.readouterr().out
    study(config, workdir, ["uniform"])
    assert not trained
    with lock(epath.Path(lost[0]), "workdir"), pytest.raises(UserError, match=r"workdir: found .* in use by"):
        study(config, workdir)
    trained.clear()
    study(config, workdir)
    assert saved == ["2"] and "from step 2\n" in capsys.readouterr().out
    assert trained == [epath.Path(each) for each in lost] and [curve(each) for each in lost] == wanted
    assert (workdir / "report.json").read_text() == (finished / "report.json").read_text()
    other = dataclasses.replace(
        config, base=dataclasses.replace(config.base, data=dataclasses.replace(config.base.data, mask_rate=0.3))
    )
    for report in (False, True):
        with pytest.raises(UserError, match=r"data.mask_rate: found 0.15 in .*, wanted 0.3; use a new workdir"):
            study(other, workdir, report=report)
    data = dataclasses.replace(config.base.data, dir=str(write_corpus(tmp_path / "corpus", num_rows=63)))
    with pytest.raises(UserError, match=r"data.dir: found a different corpus in .*; use a new workdir for the study"):
        study(dataclasses.replace(config, base=dataclasses.replace(config.base, data=data)), workdir)
    with pytest.raises(UserError, match="arms: found 'standart', wanted an arm of the study; did you mean 'standard'"):
        study(config, workdir, ["standart"])


def test_run_that_diverges_ends_alone_and_is_not_repeated(config, tmp_path, capsys) -> None:
    """The high learning rate makes the loss NaN at the second step, in a group and alone."""
    optim = dataclasses.replace(config.base.optim, clip=0.0)
    base = dataclasses.replace(config.base, optim=optim)
    for parallel, rates in ((1, (1e30,)), (2, (1e-2, 1e30))):
        wild = dataclasses.replace(
            config, base=base, arms=("standard",), seeds=1, learning_rates=rates, parallel=parallel
        )
        workdir = epath.Path(tmp_path / str(parallel))
        study(wild, workdir)
        output = capsys.readouterr().out
        assert re.search(r"learning rate 1e\+30, seed 0: \w+/loss: found (nan|inf) at step \d", output), output
        diverged = workdir / "runs/standard/lr_1e+30/seed_0"
        assert (diverged / "diverged.txt").exists() and not (diverged / "checkpoints" / "6").exists()
        study(wild, workdir)
        output = capsys.readouterr().out
        assert "run 1 of" not in output and ("every run has diverged" in output) == (len(rates) == 1)
    assert "1 diverged" in (workdir / "report.md").read_text()
    tame = [
        line["validation/loss"]
        for line in metrics.read(diverged.parents[1] / "lr_0.01/seed_0")
        if "validation/loss" in line
    ]
    assert len(tame) == 3 and np.isfinite(tame).all()


def test_report_has_tables_plots_and_curves(config, finished) -> None:
    report = json.loads((finished / "report.json").read_text())
    assert [curve["arm"] for curve in report["curves"]] == ["uniform", "standard"]
    assert all(list(run["validation_loss"]) == ["2", "4", "6"] for curve in report["curves"] for run in curve["runs"])
    text = (finished / "report.md").read_text()
    assert "4 of 4 runs are finished" in text and "| arm | lr 0.01 |" in text
    assert {path.name for path in finished.iterdir()} - {"escape.png"} == {
        "runs", "report.md", "report.json", "loss.png", "diagnostics.png",
    }  # fmt: skip
