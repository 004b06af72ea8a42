"""Two workdirs with checkpoints, one of a tiny model and one of small arrays, made once for all tests."""

import contextlib
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath

from symbert_jax.checkpoint import Checkpoints
from symbert_jax.config import MeshConfig, TrainConfig
from symbert_jax.sharding import make_mesh
from symbert_jax.train import state as states
from tests.conftest import configure

PAIRWISE_CONFIG = configure(model={"attention": "pairwise"})
CONFIG = configure()


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory):
    """A workdir to which steps 1 to 8 were saved, and the state, which is the same at every step.

    Steps 3, 4, 7 and 8 are kept. Step 3 has the lowest loss, step 5 has none.
    """
    workdir = epath.Path(tmp_path_factory.mktemp("saved"))
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        state = states.init(PAIRWISE_CONFIG)
        for steps in (range(1, 6), range(6, 9)):  # a restart must not forget the losses
            checkpoints = Checkpoints(workdir, TrainConfig(keep_latest=2, keep_every=4))
            for step in steps:
                loss = abs(step - 3.0) if step % 5 else None
                checkpoints.save(step, state.params, state.optimizer, PAIRWISE_CONFIG, validation_loss=loss)
            checkpoints.close()
    return workdir, state


@pytest.fixture(scope="session")
def two_steps(tmp_path_factory: pytest.TempPathFactory) -> epath.Path:
    """A workdir with small checkpoints 10 and 20."""
    return save(epath.Path(tmp_path_factory.mktemp("two")), 10, 20)


def tree(step: int) -> dict[str, Any]:
    """Returns small arrays to save, different for each step."""
    rng = np.random.default_rng(step)
    return {"a": {"b": rng.normal(size=(6, 4)).astype(np.float32)}, "c": rng.normal(size=7).astype(np.float32)}


def save(workdir: epath.Path, *steps: int, keep_latest: int = 9) -> epath.Path:
    """Saves small arrays for each step, as optimizer those of `tree(-step % 100)`; returns the workdir."""
    checkpoints = Checkpoints(workdir, TrainConfig(keep_latest=keep_latest))
    for step in steps:
        checkpoints.save(step, tree(step), tree(-step % 100), CONFIG, validation_loss=None)
    checkpoints.close()
    return workdir


def verified_step(workdir: epath.Path, step: int | None) -> int:
    """Returns a step, None meaning the latest, after everything of it is read and is equal to what `save` saved."""
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        step = checkpoints.check_step(step)
        found = checkpoints.restore(step, params=tree(step), optimizer=tree(step))
        assert checkpoints.config(step) == CONFIG
        assert checkpoints.corpora_of(step) == []
    jax.tree.map(np.testing.assert_array_equal, found, {"params": tree(step), "optimizer": tree(-step % 100)})
    return step
