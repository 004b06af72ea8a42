"""Orbax's manager keeps the right steps, ignores other files, and prints nothing."""

import asyncio
import errno
import gc
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from etils import epath
from jax.experimental import multihost_utils

from symbert_jax.checkpoint import Checkpoints, manager
from symbert_jax.config import TrainConfig
from symbert_jax.errors import UserError
from symbert_jax.train import state as states
from tests.checkpoint.conftest import PAIRWISE_CONFIG, save, verified_step


def test_saving_does_not_ask_jax_about_preemption(tmp_path, mesh, monkeypatch) -> None:
    """JAX takes the argument of each call for the step of this process, and chooses from it the step to stop at."""
    asked: list[int] = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", lambda step: asked.append(step) or False)
    checkpoints, state = Checkpoints(epath.Path(tmp_path), TrainConfig()), states.init(PAIRWISE_CONFIG)
    checkpoints.save(1, state.params, state.optimizer, PAIRWISE_CONFIG, validation_loss=None)
    checkpoints.close()
    assert checkpoints.latest() == 1 and not asked


def test_latest_best_and_every_kth_step_are_kept(saved) -> None:
    """Of steps 1 to 8, the latest are 7 and 8, the best is 3, and the multiples of 4 are 4 and 8."""
    workdir, _ = saved
    assert sorted(int(path.name) for path in (workdir / "checkpoints").iterdir()) == [3, 4, 7, 8]


def test_best_step_is_the_best_since_the_corpus_changed() -> None:
    """Losses on another corpus do not compare. The corpus changes after step 3."""
    losses = {1: 2.0, 2: 1.0, 3: 3.0, 4: 5.0, 5: 4.0, 6: 6.0}
    best = manager._Best(losses, corpus_changes=(3,))
    for latest, kept in ((3, 2), (4, 4), (6, 5)):
        steps = [SimpleNamespace(step=step, metrics={manager.LOSS: losses[step]}) for step in range(1, latest + 1)]
        preserved = best.should_preserve(steps, context=None)
        assert [info.step for info, is_kept in zip(steps, preserved, strict=True) if is_kept] == [kept]


def test_other_files_among_the_steps_are_ignored(two_steps, tmp_path: Path) -> None:
    workdir = epath.Path(shutil.copytree(two_steps, tmp_path / "run"))
    folder = Path(workdir) / "checkpoints"
    for name in ("notes", "007", "-1", "²", "30.orbax-checkpoint-tmp", "3 0"):
        (folder / name).mkdir()
    (folder / "40").write_text("a file")
    (folder / "50").symlink_to("nowhere")
    assert verified_step(workdir, step=None) == 20
    save(workdir, 60)
    assert verified_step(workdir, step=None) == 60
    assert not (folder / "30.orbax-checkpoint-tmp").exists() and (folder / "notes").exists()


def test_kill_during_a_deletion_leaves_no_partial_checkpoint(tmp_path: Path, monkeypatch) -> None:
    """`remove_half` removes only a part of the files of each step, as a deletion that a kill interrupts."""
    workdir = save(epath.Path(tmp_path), 10, 20)

    def remove_half(folder: Any, *_: Any, **__: Any) -> None:
        for path in Path(folder).rglob("params"):
            remove(path)

    remove = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", remove_half)
    save(workdir, 30, keep_latest=1)
    assert not {path.name for path in (workdir / "checkpoints").iterdir()} & {"10", "20"}
    assert {path.name for path in (workdir / "checkpoints" / "deleted").iterdir()} == {"10", "20"}
    with pytest.raises(UserError, match=r"no step 20 in .*, wanted one of \[30\]"):
        verified_step(workdir, step=20)
    assert verified_step(workdir, step=None) == 30
    monkeypatch.setattr(shutil, "rmtree", remove)
    Checkpoints(workdir, TrainConfig()).close()
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["30"]


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
