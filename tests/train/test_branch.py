"""A run branches from a checkpoint of another: it goes on with the same bits, and ends with a decay of its own.

Moving averages and means of its checkpoints are read by the commands that use a model.
"""

import dataclasses
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from etils import epath

import symbert_jax
from symbert_jax.checkpoint import Checkpoints, digest
from symbert_jax.config import Config, MeshConfig, TrainConfig
from symbert_jax.data.corpus import Corpora, Corpus
from symbert_jax.errors import Advice, UserError
from symbert_jax.eval.finetune import read_encoder
from symbert_jax.eval.protocols import PROTOCOLS
from symbert_jax.sharding import make_mesh
from symbert_jax.train import state as states
from symbert_jax.train.average import average
from symbert_jax.train.start import problems, restore
from tests.conftest import configure, init_params_numpy, write_corpus
from tests.forked import ForkedCommand
from tests.train.test_loop import check_same_state, curve

FROM, LAST_STABLE, STEPS = 6, 8, 12  # steps of the branch: where it begins, where its decay begins, its last


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple[int, str]]]:
    """The folder of the workdirs, and the exit codes and outputs of the commands by name."""
    folder = tmp_path_factory.mktemp("runs")
    fields = {
        "data.dir": write_corpus(folder / "corpus", length=32),
        "data.batch_size": 8,
        "model.attention": "pairwise",
        "optim.name": "muon",
        "optim.ema": 0.9,
        "optim.schedule": "wsd",
        "optim.warmup_steps": 2,
        "train.steps": 10,
        "train.log_every": 4,  # so that the branch begins between two log points
        "train.validate_every": 2,
        "train.validate_batches": 1,
        "train.checkpoint_every": 2,
        "train.keep_latest": 9,
    }
    shared = ["--config=configs/tiny.py", *(f"--config.{field}={value}" for field, value in fields.items())]
    decay = [f"--config.train.steps={STEPS}", f"--config.optim.decay_steps={STEPS - LAST_STABLE}"]
    decay += ["--config.optim.decay_shape=sqrt", f"--config.branch_from={folder}/trunk@{FROM}"]
    commands = {
        "trunk": ["pretrain", f"--workdir={folder}/trunk", *shared],
        "branch": ["pretrain", f"--workdir={folder}/branch", *shared, *decay],
        "continued": ["pretrain", f"--workdir={folder}/branch", *shared, *decay],
        "average": ["average", f"--checkpoint={folder}/trunk", "--steps=6,10,8", f"--workdir={folder}/averaged"],
        "export": ["export", f"--checkpoint={folder}/trunk", f"--out={folder}/exported"],
        "fill": ["fill", f"--checkpoint={folder}/averaged", "--step=0", "--weights=ema", "[MASK]"],
    }
    found = {}
    for name, command in commands.items():
        process = ForkedCommand(command, os.environ | {"JAX_PLATFORMS": "cpu"})
        output, _ = process.communicate(timeout=200)
        found[name] = process.returncode, output
    return folder, found


def test_branch_has_the_bits_of_the_trunk_until_its_decay_begins(runs) -> None:
    folder, results = runs
    assert [code for code, _ in results.values()] == [0, 0, 0, 0, 0, 2], results
    assert f"; from step {FROM}, as a branch of {folder}/trunk@{FROM}\n" in results["branch"][1]
    assert "warning" not in results["branch"][1]
    check_same_state(folder / "branch", folder / "trunk", LAST_STABLE)
    lines = [line for line in curve(folder / "trunk", LAST_STABLE) if line["step"] >= FROM]
    assert curve(folder / "branch", LAST_STABLE) == lines
    assert [line["step"] for line in lines] == [6, 8, 8]
    last = {line["step"]: line for line in curve(folder / "branch") if "train/loss" in line}[STEPS]
    assert last["train/learning_rate"] == pytest.approx(5e-3 * (1 - 0.75**0.5))
    assert f"is at step {STEPS} of {STEPS} already: nothing to do" in results["continued"][1]


def test_commands_use_the_moving_average_or_the_mean_of_checkpoints(runs) -> None:
    folder, results = runs
    raw, ema = (flatten(symbert_jax.load(folder / "trunk", 10, weights).params) for weights in ("raw", "ema"))
    distance = max(np.abs(raw[name] - ema[name]).max() for name in raw)
    assert 1e-4 < distance < 0.1, "the average follows the parameters"
    losses = [line for line in curve(folder / "trunk") if "validation/ema_loss" in line]
    assert [line["step"] for line in losses] == [2, 4, 6, 8, 10]
    assert all(0 < abs(line["validation/ema_loss"] - line["validation/loss"]) < 1 for line in losses)
    assert (
        f"step 10 validation loss {losses[-1]['validation/loss']:.4f}, {losses[-1]['validation/ema_loss']:.4f} of the"
        in (results["trunk"][1])
    )
    by_default = symbert_jax.load(folder / "trunk").params
    exported = safetensors.numpy.load_file(folder / "exported" / "model.safetensors")
    np.testing.assert_array_equal(exported["bert.embeddings.word_embeddings.weight"], ema["embeddings/word"])
    card = (folder / "exported" / "README.md").read_text()
    assert f"| validation loss | {losses[-1]['validation/ema_loss']:.4f} nats |" in card
    for weights, wanted in (("", by_default), ("raw", symbert_jax.load(folder / "trunk", weights="raw").params)):
        encoder = read_encoder(epath.Path(folder / "trunk"), 10, PROTOCOLS["paper"], weights)
        assert encoder.sha256 == digest({part: tree for part, tree in wanted.items() if part != "head"})
    mean = flatten(symbert_jax.load(folder / "averaged").params)
    sums = [flatten(symbert_jax.load(folder / "trunk", step, "raw").params) for step in (6, 8, 10)]
    for name, found in mean.items():
        np.testing.assert_allclose(found, sum(each[name] for each in sums) / 3, rtol=1e-6, atol=1e-8, err_msg=name)
        np.testing.assert_array_equal(flatten(by_default)[name], ema[name])
    assert f"{folder}/averaged: the mean of steps 6, 10, 8 of {folder}/trunk, as checkpoint 0" in results["average"][1]
    assert "weights: found no moving average in step 0 of" in results["fill"][1]


def flatten(tree: dict) -> dict[str, np.ndarray]:
    return {"/".join(key.key for key in path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The config of a run whose workdir, the folder `trunk` beside its corpus, has step 5."""
    folder = tmp_path_factory.mktemp("source")
    config = configure(data={"dir": str(write_corpus(folder / "corpus"))})
    corpus = Corpus(config.data.dir)
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        state = states.init_from_params(config, jax.device_put(init_params_numpy(config.model)))
        checkpoints = Checkpoints(epath.Path(folder / "trunk"), TrainConfig(), corpus.fingerprint)
        checkpoints.save(5, state.params, state.optimizer, config, validation_loss=None)
        checkpoints.close()
    (folder / "trunk" / "vocab.txt").write_text((folder / "corpus" / "vocab.txt").read_text())
    return config


def list_problems(trunk: Config, **changes: object) -> list[UserError]:
    """Returns the problems of a branch of the run at step 5 with these changes of its config."""
    folder = Path(trunk.data.dir).parent
    config = dataclasses.replace(trunk, branch_from=f"{folder}/trunk@5")
    for name, change in changes.items():
        section = getattr(config, name)
        value = dataclasses.replace(section, **change) if isinstance(change, dict) else change
        config = dataclasses.replace(config, **{name: value})
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        return list(problems(config, Corpora(), epath.Path(folder / "new")))


def test_branch_may_change_the_end_of_the_schedule_and_reports_other_changes(trunk, tmp_path: Path) -> None:
    decay = {"schedule": "wsd", "decay_steps": 9, "decay_shape": "sqrt"}
    assert list_problems(trunk, optim=decay, train={"steps": 20}) == []
    other = write_corpus(tmp_path / "corpus", num_rows=63)
    data = {"dir": str(other), "batch_size": 8, "mask_rate": 0.3}
    reported = list_problems(trunk, optim={"weight_decay": 0.1}, data=data, seed=1)
    assert all(isinstance(each, Advice) for each in reported)
    assert [each.what for each in reported] == [
        *("data.mask_rate", "data.batch_size", "optim.weight_decay", "seed", "data.dir"),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"steps": 5}}, "train.steps: found 5, wanted more than 5, the step of branch_from"),
        ({"optim": {"name": "lamb"}}, "optim.name: found lamb, wanted adamw, with which .*/trunk reached step 5"),
        ({"model": {"norm_eps": 1e-5}}, "model.norm_eps: found 1e-05, wanted 1e-12, with which .*; a branch keeps it"),
        ({"model": {"layers": 3}}, r".*/trunk/checkpoints/5/params: found .* of shape \[2, .*wanted .* \[3, "),
        ({"branch_from": "{}@7"}, r"checkpoint: found no step 7 in .*/trunk/checkpoints, wanted one of \[5\]"),
        ({"branch_from": "{}x@5"}, "checkpoint: found no .*/trunkx/checkpoints, wanted the workdir of a pretrain run"),
    ],
)
def test_branch_refuses_another_state(trunk, changes: dict, message: str) -> None:
    changes = {
        name: value.format(Path(trunk.data.dir).parent / "trunk") if isinstance(value, str) else value
        for name, value in changes.items()
    }
    with pytest.raises(UserError, match=message):
        for problem in list_problems(trunk, **changes):
            raise problem


def test_run_that_gets_a_moving_average_starts_it_from_its_parameters(trunk) -> None:
    """Step 5 was saved without an average."""
    config = dataclasses.replace(trunk, optim=dataclasses.replace(trunk.optim, ema=0.9))
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        state = restore(config, Checkpoints(epath.Path(trunk.data.dir).parent / "trunk"))
    jax.tree.map(np.testing.assert_array_equal, state.ema, state.params)
    (reported,) = list_problems(trunk, optim={"ema": 0.9})
    assert isinstance(reported, Advice) and reported.what == "optim.ema"


@pytest.mark.parametrize(
    ("steps", "last", "message"),
    [
        ("6,7", None, r"checkpoint: found no step 7 in .*/trunk/checkpoints, wanted one of \[2, 4, 6, 8, 10\]"),
        (None, 6, "last: found 6, wanted at most 5, the checkpoints in .*/trunk/checkpoints"),
        ("6", None, "steps: found '6', wanted two or more different steps, separated by commas"),
        ("6,6", None, "steps: found '6,6', wanted two or more"),
        ("6,06", None, "steps: found '6,06', wanted two or more"),
        ("6,x", None, "steps: found '6,x', wanted two or more"),
        (None, None, "command line: found neither --steps nor --last, wanted one of"),
        ("6,8", 2, "command line: found both --steps and --last, wanted one of"),
    ],
)
def test_average_names_the_wrong_flag(runs, steps: str | None, last: int | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        average(epath.Path(runs[0] / "trunk"), epath.Path(tmp_path / "out"), steps, last)
    assert not list(tmp_path.iterdir())


def test_average_refuses_other_parameters_damage_and_odd_paths(trunk, tmp_path: Path) -> None:
    """Step 6 has a wider MLP, and step 7 is an empty folder."""
    run = epath.Path(shutil.copytree(Path(trunk.data.dir).parent / "trunk", tmp_path / "run"))
    wider = dataclasses.replace(trunk, model=dataclasses.replace(trunk.model, mlp_dim=2 * trunk.model.mlp_dim))
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        state = states.init_from_params(wider, jax.device_put(init_params_numpy(wider.model)))
    checkpoints = Checkpoints(run, TrainConfig())
    checkpoints.save(6, state.params, state.optimizer, wider, validation_loss=None)
    checkpoints.close()
    (run / "checkpoints" / "7").mkdir()
    for out, steps, last, message in (
        ("out", "5,6", None, r"/checkpoints/6/params: found .* of shape .*, wanted .* of shape"),
        ("out", None, 2, r"checkpoint: found .*/checkpoints/7 damaged: it is empty"),
        ("a*b", "5,6", None, r"workdir: found .*/a\*b, with \* in it"),
        ("run", "5,6", None, r"workdir: found .*/run, which is not empty"),
    ):
        with pytest.raises(UserError, match=message):
            average(run, epath.Path(tmp_path / out), steps, last)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
