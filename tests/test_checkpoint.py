"""Checkpoints are kept, restored and checked; an error about a damaged step names the latest whole step."""

import asyncio
import contextlib
import dataclasses
import errno
import gc
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath
from jax.experimental import multihost_utils

import symbert_jax
from symbert_jax.checkpoint import Checkpoints, check_step, index, manager, params, read_params, steps, write_params
from symbert_jax.config import Config, MeshConfig, TrainConfig, from_json
from symbert_jax.data.vocabulary import read as read_vocabulary
from symbert_jax.errors import UserError
from symbert_jax.model import bert
from symbert_jax.sharding import make_mesh, put_batch
from symbert_jax.train import state as states
from symbert_jax.train.start import restore
from tests.conftest import configure

FIXTURE = Path(__file__).parent / "fixtures" / "checkpoint"
PAIRWISE = configure(model={"attention": "pairwise"})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory):
    """A workdir to which steps 1 to 8 were saved, and their state. Step 3 has the lowest loss, step 5 has none."""
    workdir = epath.Path(tmp_path_factory.mktemp("saved"))
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        state = states.init(PAIRWISE)
        for steps in (range(1, 6), range(6, 9)):  # a restart must not forget the losses
            checkpoints = Checkpoints(workdir, TrainConfig(keep_latest=2, keep_every=4))
            for step in steps:
                loss = abs(step - 3.0) if step % 5 else None
                checkpoints.save(step, state.params, state.optimizer, PAIRWISE, loss)
            checkpoints.close()
    return workdir, state


def test_saving_does_not_ask_jax_about_preemption(tmp_path, mesh, monkeypatch) -> None:
    """JAX takes the argument of each call for the step of this process, and chooses from it the step to stop at."""
    asked: list[int] = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", lambda step: asked.append(step) or False)
    checkpoints, state = Checkpoints(epath.Path(tmp_path), TrainConfig()), states.init(PAIRWISE)
    checkpoints.save(1, state.params, state.optimizer, PAIRWISE, None)
    checkpoints.close()
    assert checkpoints.latest() == 1 and not asked


def test_latest_best_and_every_kth_step_are_kept(saved) -> None:
    workdir, _ = saved
    assert sorted(int(path.name) for path in (workdir / "checkpoints").iterdir()) == [3, 4, 7, 8]


@pytest.mark.parametrize(
    "mesh_config", [MeshConfig(data=8), MeshConfig(data=2, model=4), MeshConfig(data=4, model=2, fsdp=True)]
)
def test_checkpoint_is_restored_on_another_mesh(saved, mesh_config: MeshConfig) -> None:
    workdir, state = saved
    config = dataclasses.replace(PAIRWISE, mesh=mesh_config)
    with jax.set_mesh(make_mesh(mesh_config)):
        found = restore(config, Checkpoints(workdir))
        wanted = states.abstract(config)
    assert int(found.step) == 8
    for path, leaf in jax.tree.leaves_with_path((found.params, found.optimizer)):
        target = dict(jax.tree.leaves_with_path((wanted.params, wanted.optimizer)))[path]
        assert leaf.sharding.is_equivalent_to(target.sharding, leaf.ndim)
    jax.tree.map(np.testing.assert_array_equal, found.params, state.params)
    jax.tree.map(np.testing.assert_array_equal, found.optimizer, state.optimizer)


def test_load_returns_parameters_and_config(saved, capfd) -> None:
    workdir, state = saved
    params, config = symbert_jax.load(workdir, step=3)
    assert config == PAIRWISE
    jax.tree.map(np.testing.assert_array_equal, params, state.params)
    assert jax.tree.structure(params) == jax.tree.structure(state.params)
    assert "WARNING" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (configure(), "found no layers.attention.key.bias, wanted layers.attention.key.bias of shape"),
        (configure(model={"attention": "pairwise", "dim": 64}), r"found .*bias of shape \[32\], wanted .*\[64\]"),
        (configure(model={"attention": "pairwise", "layers": 3}), r"of shape \[2, 32\], wanted .*\[3, 32\]"),
    ],
)
def test_restore_refuses_another_model(saved, config: Config, message: str) -> None:
    workdir, _ = saved
    with jax.set_mesh(make_mesh(MeshConfig())), pytest.raises(UserError, match=message):
        restore(config, Checkpoints(workdir))


def test_missing_checkpoint_is_one_error(saved, tmp_path) -> None:
    with pytest.raises(UserError, match=r"found no step 2 in .*wanted one of \[3, 4, 7, 8\]"):
        symbert_jax.load(saved[0], step=2)
    with pytest.raises(UserError, match="wanted the workdir of a pretrain run"):
        symbert_jax.load(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="wanted a finished checkpoint"):
        symbert_jax.load(tmp_path)


CONFIG = configure()


def tree(step: int) -> dict[str, Any]:
    """Small arrays to save, different for each step."""
    rng = np.random.default_rng(step)
    return {"a": {"b": rng.normal(size=(6, 4)).astype(np.float32)}, "c": rng.normal(size=7).astype(np.float32)}


def save(workdir: epath.Path, *steps: int, keep: int = 9) -> epath.Path:
    """Saves small arrays for each step, those of the optimizer with the seed -step % 100; returns the workdir."""
    checkpoints = Checkpoints(workdir, TrainConfig(keep_latest=keep))
    for step in steps:
        checkpoints.save(step, tree(step), tree(-step % 100), CONFIG, None)
    checkpoints.close()
    return workdir


def restore_and_compare(workdir: epath.Path, step: int | None) -> int:
    """Reads everything of a step, None for the latest, compares it with what was saved, and returns the step."""
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        step = checkpoints.check_step(step)
        found = checkpoints.restore(step, params=tree(step), optimizer=tree(step))
        assert checkpoints.config(step) == CONFIG
        assert checkpoints.corpus_of(step) == ""
    jax.tree.map(np.testing.assert_array_equal, found, {"params": tree(step), "optimizer": tree(-step % 100)})
    return step


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory: pytest.TempPathFactory) -> epath.Path:
    """A workdir with small checkpoints 10 and 20."""
    return save(epath.Path(tmp_path_factory.mktemp("two")), 10, 20)


def test_changed_byte_is_harmless_or_an_error_with_the_step(two_steps, monkeypatch, capfd) -> None:
    files = sorted(path for path in Path(two_steps).rglob("*") if path.is_file())
    rng, damaged = np.random.default_rng(0), 0
    for _ in range(200):
        file = files[rng.integers(len(files))]
        before = file.read_bytes()
        i, step = int(rng.integers(len(before))), int(file.relative_to(two_steps).parts[1])
        flipped = bytes([before[i] ^ int(rng.integers(1, 256))]) + before[i + 1 :]
        file.write_bytes(before[:i] + (flipped if rng.random() < 0.7 else b""))
        monkeypatch.setattr(index, "_SMALL", rng.choice([0, 1 << 20]))  # 0: as if all files were large
        try:
            assert restore_and_compare(two_steps, None if step == 20 else step) == step
        except UserError as error:
            damaged += 1
            assert str(error).startswith(f"checkpoint: found {two_steps}/checkpoints/{step} damaged: ")
            assert f"; the latest whole step is {30 - step}: take it with --step={30 - step} " in str(error)
            assert "\n" not in str(error)
        finally:
            file.write_bytes(before)
    assert 150 < damaged < 200, "a change of commit_success.txt, which nothing reads, is harmless"
    assert restore_and_compare(two_steps, None) == 20 and capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda step: [path.unlink() if path.is_file() else shutil.rmtree(path) for path in step.iterdir()],
            "it is empty",
        ),
        (lambda step: shutil.rmtree(step / "optimizer"), "it has no optimizer"),
        (lambda step: shutil.rmtree(step / "params"), "it has no params"),
        (lambda step: (step / "_CHECKPOINT_METADATA").unlink(), "_CHECKPOINT_METADATA is missing"),
        (lambda step: (step / "_CHECKPOINT_METADATA").write_text("[]"), "AttributeError: .*"),
        (
            lambda step: replace(step / "_CHECKPOINT_METADATA", '"batch_size": 16', '"batch_size": 17'),
            "_CHECKPOINT_METADATA has a wrong checksum",
        ),
        (
            lambda step: replace(step / "index.json", '"corpus": ""', '"corpus": "x"'),
            "index.json has a wrong checksum",
        ),
        (lambda step: (step / "params/manifest.ocdbt").write_bytes(b""), "params/manifest.ocdbt is empty"),
        (lambda step: os.truncate(max(step.glob("params/d/*")), 50), r"params/d/\S* has 50 bytes instead of \d+"),
        (lambda step: max(step.glob("optimizer/ocdbt*/d/*")).unlink(), r"optimizer/ocdbt\S* is missing"),
    ],
)
def test_error_about_damage_names_the_latest_whole_step(two_steps, damage, message: str, tmp_path: Path) -> None:
    workdir = epath.Path(shutil.copytree(two_steps, tmp_path / "run"))
    step = Path(workdir) / "checkpoints" / "20"
    damage(step)
    hint = rf"the latest whole step is 10: .*--step=10 .*, or move {step} away and run the same command again"
    line = f"checkpoint: found {step} damaged: {message}, wanted a whole checkpoint; {hint}"
    for read in (restore_and_compare, symbert_jax.load, check_step):
        for requested in (None, 20):
            with pytest.raises(UserError, match=line):
                read(workdir, requested)
    with contextlib.closing(Checkpoints(workdir, TrainConfig())) as checkpoints, pytest.raises(UserError, match=line):
        checkpoints.latest()
    assert restore_and_compare(workdir, 10) == 10


def replace(file: Path, old: str, new: str) -> None:
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def test_run_continues_after_a_damaged_step_is_moved_away(two_steps, tmp_path: Path) -> None:
    workdir = epath.Path(shutil.copytree(two_steps, tmp_path / "run"))
    step = Path(workdir) / "checkpoints" / "20"
    shutil.rmtree(step / "params")
    step.rename(tmp_path / "away")
    assert restore_and_compare(workdir, None) == 10
    save(workdir, 20)
    assert restore_and_compare(workdir, None) == 20


def test_damage_without_an_index_is_an_error_with_the_step(two_steps, tmp_path: Path) -> None:
    """Older checkpoints have no index."""
    workdir = epath.Path(shutil.copytree(two_steps, tmp_path / "run"))
    step = Path(workdir) / "checkpoints" / "20"
    (step / "index.json").unlink()
    assert restore_and_compare(workdir, None) == 20
    (step / "metrics" / "metrics").write_text("{")
    with pytest.raises(UserError, match=f"{step} damaged: metrics is not JSON, .* latest whole step is 10"):
        restore_and_compare(workdir, None)
    shutil.rmtree(step / "metrics")
    os.truncate(max(step.glob("params/d/*")), 50)
    with pytest.raises(UserError, match=f"{step} damaged: .*params.*, .* latest whole step is 10"):
        restore_and_compare(workdir, None)


def test_other_files_among_the_steps_are_ignored(two_steps, tmp_path: Path) -> None:
    workdir = epath.Path(shutil.copytree(two_steps, tmp_path / "run"))
    folder = Path(workdir) / "checkpoints"
    for name in ("notes", "007", "-1", "²", "30.orbax-checkpoint-tmp", "3 0"):
        (folder / name).mkdir()
    (folder / "40").write_text("a file")
    (folder / "50").symlink_to("nowhere")
    assert restore_and_compare(workdir, None) == 20
    save(workdir, 60)
    assert restore_and_compare(workdir, None) == 60
    assert not (folder / "30.orbax-checkpoint-tmp").exists() and (folder / "notes").exists()


def test_kill_during_a_deletion_leaves_no_partial_checkpoint(tmp_path: Path, monkeypatch) -> None:
    workdir = save(epath.Path(tmp_path), 10, 20)

    def remove_half(folder: Any, *_: Any, **__: Any) -> None:
        for path in Path(folder).rglob("params"):
            remove(path)

    remove = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", remove_half)
    save(workdir, 30, keep=1)
    assert not {path.name for path in (workdir / "checkpoints").iterdir()} & {"10", "20"}
    assert {path.name for path in (workdir / "checkpoints" / "deleted").iterdir()} == {"10", "20"}
    with pytest.raises(UserError, match=r"no step 20 in .*, wanted one of \[30\]"):
        restore_and_compare(workdir, 20)
    assert restore_and_compare(workdir, None) == 30
    monkeypatch.setattr(shutil, "rmtree", remove)
    Checkpoints(workdir, TrainConfig()).close()
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["30"]


def test_failed_save_is_one_error_and_keeps_other_steps(tmp_path, monkeypatch, caplog) -> None:
    workdir = save(epath.Path(tmp_path), 10)

    def write_on_full_disk(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write_after_damage(folder: epath.Path, *more: Any) -> None:
        min(Path(folder).rglob("manifest.ocdbt"), key=lambda path: len(path.parts)).unlink()
        write_index(folder, *more)

    write_index = index.write_index
    for fault, message in (
        (write_on_full_disk, ".*No space left on device"),
        (write_after_damage, ".*manifest.ocdbt is missing"),
    ):
        monkeypatch.setattr(steps, "write_index", fault)
        monkeypatch.setattr(params, "write_index", fault)
        checkpoints = Checkpoints(workdir, TrainConfig(keep_latest=1))
        checkpoints.save(20, tree(20), tree(20), CONFIG, None)
        with pytest.raises(
            UserError, match=f"checkpoint: found step 20 not saved in .*: {message}, wanted a disk with"
        ):
            checkpoints.save(30, tree(30), tree(30), CONFIG, None)
        checkpoints.close()
        with pytest.raises(UserError, match=f"/params not saved: {message}, wanted a disk with"):
            write_params(workdir / "params", {"params": tree(0)})
        assert restore_and_compare(workdir, None) == 10
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_orbax_finishes_all_tasks_and_prints_nothing(caplog) -> None:
    """On a full disk, one task has failed, another fails later, and nobody retrieves their exceptions."""
    finished = []

    async def fail(seconds: float) -> None:
        await asyncio.sleep(seconds)
        finished.append(seconds)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def write() -> None:
        tasks = [asyncio.create_task(fail(seconds)) for seconds in (0, 0.05)]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        raise ValueError("not written")

    with pytest.raises(ValueError, match="not written"):
        manager.asyncio_utils.run_sync(write())
    gc.collect()
    assert finished == [0, 0.05] and not caplog.records


def test_damaged_parameters_are_one_error(tmp_path: Path) -> None:
    folder = epath.Path(tmp_path) / "params"
    write_params(folder, tree(1))
    jax.tree.map(np.testing.assert_array_equal, read_params(folder), tree(1))
    for file in [path for path in Path(folder).rglob("*") if path.is_file() and path.name != "commit_success.txt"]:
        before = file.read_bytes()
        file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        with pytest.raises(UserError, match=f"checkpoint: found {folder} damaged: .*, wanted whole parameters"):
            read_params(folder)
        file.write_bytes(before)
    jax.tree.map(np.testing.assert_array_equal, read_params(folder), tree(1))


@pytest.mark.parametrize("name", ["[x]", "a*", "a?", "a\\b", "gs:", "\udcff"])
def test_path_that_orbax_cannot_read_is_refused(two_steps, name: str, tmp_path: Path) -> None:
    workdir = epath.Path(tmp_path / name)
    message = r"workdir: found .*, with .* in it, wanted a path that checkpoints can be read back from"
    for write in (lambda: save(workdir, 1), lambda: write_params(workdir, tree(1))):
        with pytest.raises(UserError, match=message):
            write()
    assert not list(tmp_path.iterdir())
    shutil.copytree(two_steps, workdir)
    for read in (symbert_jax.load, read_params):
        with pytest.raises(UserError, match=message.replace("workdir", "checkpoint")):
            read(workdir)


@pytest.mark.parametrize("name", ["-a b#%20é: '\"$HOME{x}", "a\nb\t~@2 "])
def test_path_with_odd_characters_is_saved_and_restored(name: str, tmp_path: Path) -> None:
    workdir = save(epath.Path(tmp_path / name), 1)
    assert restore_and_compare(workdir, None) == 1
    write_params(workdir / "params", tree(1))
    jax.tree.map(np.testing.assert_array_equal, read_params(workdir / "params"), tree(1))


def test_old_checkpoint_loads() -> None:
    params, config = symbert_jax.load(FIXTURE / "workdir")
    assert (config.model.attention, config.data.vocab, config.init_from) == ("pairwise", "train", "")
    assert len(read_vocabulary(FIXTURE / "workdir" / "vocab.txt")) == config.model.vocab_size
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        check_logits(config, params)


@pytest.mark.parametrize("devices", [1, 8])
def test_run_continues_from_an_old_checkpoint(devices: int) -> None:
    config = from_json((FIXTURE / "workdir" / "config.json").read_text())
    with jax.set_mesh(make_mesh(config.mesh, jax.devices()[:devices])):
        state = restore(config, Checkpoints(epath.Path(FIXTURE / "workdir")))
        assert int(state.step) == 40 and state.params["head"]["bias"].sharding.num_devices == devices
        adam = state.optimizer[1]
        assert int(adam.count) == 40 and float(adam.nu["embeddings"]["word"].sum()) > 0
        check_logits(config, state.params)


def check_logits(config: Config, params: bert.Params) -> None:
    expected = np.load(FIXTURE / "expected.npz")
    batch = put_batch({name: expected[name] for name in ("tokens", "positions")})
    found = bert.logits(config.model, params, **batch)
    np.testing.assert_allclose(found, expected["logits"], rtol=0, atol=1e-6)
