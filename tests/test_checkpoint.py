"""What is kept, what comes back, and what is said when it does not fit."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from jax.experimental import multihost_utils

import symbert_jax
from symbert_jax.checkpoint import Checkpoints
from symbert_jax.config import Config, Mesh, Train, from_json
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
    """A workdir with steps 1 to 8, losses falling to step 3 and rising again, and the state that was saved."""
    workdir = epath.Path(tmp_path_factory.mktemp("saved"))
    with jax.set_mesh(make_mesh(Mesh(), jax.devices()[:1])):
        state = states.init(PAIRWISE)
        for steps in (range(1, 6), range(6, 9)):  # a restart in between must remember the losses
            checkpoints = Checkpoints(workdir, Train(keep_latest=2, keep_every=4))
            for step in steps:
                loss = abs(step - 3.0) if step % 5 else None
                checkpoints.save(step, state.params, state.optimizer, PAIRWISE, loss)
            checkpoints.close()
    return workdir, state


def test_saving_leaves_preemption_to_the_loop(tmp_path, mesh, monkeypatch) -> None:
    """JAX takes the number it is asked with for the step at which this process is; it agrees on a step by that."""
    asked: list[int] = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", lambda step: asked.append(step) or False)
    checkpoints, state = Checkpoints(epath.Path(tmp_path), Train()), states.init(PAIRWISE)
    checkpoints.save(1, state.params, state.optimizer, PAIRWISE, None)
    checkpoints.close()
    assert checkpoints.latest() == 1 and not asked


def test_the_latest_the_best_and_every_kth_are_kept(saved) -> None:
    workdir, _ = saved
    assert sorted(int(path.name) for path in (workdir / "checkpoints").iterdir()) == [3, 4, 7, 8]


@pytest.mark.parametrize("mesh", [Mesh(data=8), Mesh(data=2, model=4), Mesh(data=4, model=2, fsdp=True)])
def test_it_comes_back_on_another_mesh(saved, mesh: Mesh) -> None:
    workdir, state = saved
    config = dataclasses.replace(PAIRWISE, mesh=mesh)
    with jax.set_mesh(make_mesh(mesh)):
        found = restore(config, Checkpoints(workdir))
        wanted = states.abstract(config)
    assert int(found.step) == 8
    for path, leaf in jax.tree.leaves_with_path((found.params, found.optimizer)):
        target = dict(jax.tree.leaves_with_path((wanted.params, wanted.optimizer)))[path]
        assert leaf.sharding.is_equivalent_to(target.sharding, leaf.ndim)
    jax.tree.map(np.testing.assert_array_equal, found.params, state.params)
    jax.tree.map(np.testing.assert_array_equal, found.optimizer, state.optimizer)


def test_load_gives_parameters_and_config(saved, capfd) -> None:
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
def test_another_model_is_one_clear_error(saved, config: Config, message: str) -> None:
    workdir, _ = saved
    with jax.set_mesh(make_mesh(Mesh())), pytest.raises(UserError, match=message):
        restore(config, Checkpoints(workdir))


def test_a_missing_checkpoint_is_one_clear_error(saved, tmp_path) -> None:
    with pytest.raises(UserError, match=r"found no step 2 in .*wanted one of \[3, 4, 7, 8\]"):
        symbert_jax.load(saved[0], step=2)
    with pytest.raises(UserError, match="wanted the workdir of a pretrain run"):
        symbert_jax.load(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="wanted a finished one"):
        symbert_jax.load(tmp_path)


def test_an_old_checkpoint_loads_for_ever() -> None:
    params, config = symbert_jax.load(FIXTURE / "workdir")
    assert (config.model.attention, config.data.vocab, config.init_from) == ("pairwise", "train", "")
    assert len(read_vocabulary(FIXTURE / "workdir" / "vocab.txt")) == config.model.vocab_size
    with jax.set_mesh(make_mesh(Mesh(), jax.devices()[:1])):
        same_logits(config, params)


@pytest.mark.parametrize("devices", [1, 8])
def test_a_run_goes_on_from_an_old_checkpoint(devices: int) -> None:
    config = from_json((FIXTURE / "workdir" / "config.json").read_text())
    with jax.set_mesh(make_mesh(config.mesh, jax.devices()[:devices])):
        state = restore(config, Checkpoints(epath.Path(FIXTURE / "workdir")))
        assert int(state.step) == 40 and state.params["head"]["bias"].sharding.num_devices == devices
        adam = state.optimizer[1]
        assert int(adam.count) == 40 and float(adam.nu["embeddings"]["word"].sum()) > 0
        same_logits(config, state.params)


def same_logits(config: Config, params: bert.Params) -> None:
    expected = np.load(FIXTURE / "expected.npz")
    batch = put_batch({name: expected[name] for name in ("tokens", "positions")})
    found = bert.logits(config.model, params, **batch)
    np.testing.assert_allclose(found, expected["logits"], rtol=0, atol=1e-6)
