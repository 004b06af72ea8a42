"""Checkpoints are saved, restored on any mesh, and loaded; a missing one or a failed save raises a `UserError`."""

import dataclasses
import errno
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath

import symbert_jax
from symbert_jax.checkpoint import Checkpoints, write_params
from symbert_jax.checkpoint.index import write_index
from symbert_jax.config import Config, MeshConfig, TrainConfig, from_json
from symbert_jax.data.vocabulary import read as read_vocabulary
from symbert_jax.errors import UserError
from symbert_jax.model import bert
from symbert_jax.sharding import make_mesh, put_batch
from symbert_jax.train.start import restore
from symbert_jax.train.state import abstract
from tests.checkpoint.conftest import CONFIG, PAIRWISE_CONFIG, save, tree, verified_step

# The folder of a workdir that an older version wrote, and of expected.npz, which `check_logits` reads.
FIXTURE = Path(__file__).parents[1] / "fixtures" / "checkpoint"


@pytest.mark.parametrize(
    "mesh_config", [MeshConfig(data=8), MeshConfig(data=2, model=4), MeshConfig(data=4, model=2, fsdp=True)]
)
def test_checkpoint_is_restored_on_another_mesh(saved, mesh_config: MeshConfig) -> None:
    """`saved` was written on a mesh of one device; its latest step is 8."""
    workdir, state = saved
    config = dataclasses.replace(PAIRWISE_CONFIG, mesh=mesh_config)
    with jax.set_mesh(make_mesh(mesh_config)):
        found = restore(config, Checkpoints(workdir))
        wanted = abstract(config)
    assert int(found.step) == 8
    for path, leaf in jax.tree.leaves_with_path((found.params, found.optimizer)):
        target = dict(jax.tree.leaves_with_path((wanted.params, wanted.optimizer)))[path]
        assert leaf.sharding.is_equivalent_to(target.sharding, leaf.ndim)
    jax.tree.map(np.testing.assert_array_equal, found.params, state.params)
    jax.tree.map(np.testing.assert_array_equal, found.optimizer, state.optimizer)


def test_load_returns_parameters_and_config(saved, capfd) -> None:
    """`saved` has the same parameters at every step."""
    workdir, state = saved
    params, config = symbert_jax.load(workdir, step=3)
    assert config == PAIRWISE_CONFIG
    jax.tree.map(np.testing.assert_array_equal, params, state.params)
    assert jax.tree.structure(params) == jax.tree.structure(state.params)
    assert "WARNING" not in capfd.readouterr().err


def test_load_of_missing_checkpoint_raises_user_error(saved, tmp_path) -> None:
    with pytest.raises(UserError, match=r"found no step 2 in .*wanted one of \[3, 4, 7, 8\]"):
        symbert_jax.load(saved[0], step=2)
    with pytest.raises(UserError, match="wanted the workdir of a pretrain run"):
        symbert_jax.load(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="wanted a finished checkpoint"):
        symbert_jax.load(tmp_path)


def test_run_continues_after_a_damaged_step_is_moved_away(two_steps, tmp_path: Path) -> None:
    workdir = epath.Path(shutil.copytree(two_steps, tmp_path / "run"))
    step = Path(workdir) / "checkpoints" / "20"
    shutil.rmtree(step / "params")
    step.rename(tmp_path / "away")
    assert verified_step(workdir, step=None) == 10
    save(workdir, 20)
    assert verified_step(workdir, step=None) == 20


def test_failed_save_raises_user_error_and_keeps_other_steps(tmp_path, monkeypatch, caplog) -> None:
    """Orbax saves in the background, so the error about step 20 is raised when step 30 is to be saved."""
    workdir = save(epath.Path(tmp_path), 10)

    def fail_as_on_full_disk(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def remove_manifest_and_write_index(folder: epath.Path, *more: Any, **options: Any) -> None:
        min(Path(folder).rglob("manifest.ocdbt"), key=lambda path: len(path.parts)).unlink()
        write_index(folder, *more, **options)

    for fault, message in (
        (fail_as_on_full_disk, ".*No space left on device"),
        (remove_manifest_and_write_index, ".*manifest.ocdbt is missing"),
    ):
        monkeypatch.setattr("symbert_jax.checkpoint.steps.write_index", fault)
        monkeypatch.setattr("symbert_jax.checkpoint.params.write_index", fault)
        checkpoints = Checkpoints(workdir, TrainConfig(keep_latest=1))
        checkpoints.save(20, tree(20), tree(20), CONFIG, validation_loss=None)
        with pytest.raises(
            UserError, match=f"checkpoint: found step 20 not saved in .*: {message}, wanted a disk with"
        ):
            checkpoints.save(30, tree(30), tree(30), CONFIG, validation_loss=None)
        checkpoints.close()
        with pytest.raises(UserError, match=f"/params not saved: {message}, wanted a disk with"):
            write_params(workdir / "params", {"params": tree(0)})
        assert verified_step(workdir, step=None) == 10
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_old_checkpoint_loads() -> None:
    """The config of an old checkpoint lacks `init_from`, which takes its default."""
    params, config = symbert_jax.load(FIXTURE / "workdir")
    assert (config.model.attention, config.data.vocab, config.init_from) == ("pairwise", "train", "")
    assert len(read_vocabulary(FIXTURE / "workdir" / "vocab.txt")) == config.model.vocab_size
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        check_logits(config, params)


@pytest.mark.parametrize("devices", [1, 8])
def test_run_continues_from_an_old_checkpoint(devices: int) -> None:
    """The checkpoint is of step 40; Adam's count and moments are restored, too."""
    config = from_json((FIXTURE / "workdir" / "config.json").read_text())
    with jax.set_mesh(make_mesh(config.mesh, jax.devices()[:devices])):
        state = restore(config, Checkpoints(epath.Path(FIXTURE / "workdir")))
        assert int(state.step) == 40 and state.params["head"]["bias"].sharding.num_devices == devices
        adam = state.optimizer[1]  # the second part of the optimizer, after clipping
        assert int(adam.count) == 40 and float(adam.nu["embeddings"]["word"].sum()) > 0
        check_logits(config, state.params)


def check_logits(config: Config, params: bert.Params) -> None:
    """Compares logits with those of the version that wrote the checkpoint in FIXTURE."""
    expected = np.load(FIXTURE / "expected.npz")
    batch = put_batch({name: expected[name] for name in ("tokens", "positions")})
    found = bert.logits(config.model, params, **batch)
    np.testing.assert_allclose(found, expected["logits"], rtol=0, atol=1e-6)
