"""A run goes on from its own checkpoint, or begins with the parameters of another, for longer rows too."""

import dataclasses
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

from symbert_jax.checkpoint import Checkpoints
from symbert_jax.config import Config, Mesh, Train
from symbert_jax.errors import UserError
from symbert_jax.model import bert
from symbert_jax.sharding import make_mesh, put_batch
from symbert_jax.train import state as states
from symbert_jax.train.start import first_state, inherit, problems
from tests.conftest import WORDS, born, configure, write_corpus

logits = jax.jit(bert.logits, static_argnums=0)
MESHES = [Mesh(data=8), Mesh(data=2, model=4), Mesh(data=4, model=2, fsdp=True)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory):
    """A workdir with @ in its name and steps 5 and 6, the state that each holds, and a config that fits it."""
    folder = tmp_path_factory.mktemp("source")
    corpus = write_corpus(folder / "corpus")
    workdir = epath.Path(folder / "run@home")
    config = configure(model={"attention": "pairwise"}, data={"dir": str(corpus)})
    with jax.set_mesh(make_mesh(Mesh(), jax.devices()[:1])):
        params = jax.device_put(born(config.model))
        saved = {
            step: states.begin(config, jax.tree.map(lambda leaf, by=step: leaf * (1 + by / 50), params))
            for step in (5, 6)
        }
        checkpoints = Checkpoints(workdir, Train())
        for step, state in saved.items():
            checkpoints.save(step, state.params, state.optimizer, config, None)
        checkpoints.close()
    shutil.copy(corpus / "vocab.txt", workdir)
    return workdir, saved, config


def changed(config: Config, **model: object) -> Config:
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **model))


@pytest.mark.parametrize(("mesh", "suffix", "step"), zip(MESHES, ("", "@5", "@6"), (6, 5, 6), strict=True))
def test_it_begins_with_the_others_parameters_and_a_fresh_optimizer(source, mesh: Mesh, suffix: str, step: int) -> None:
    workdir, saved, config = source
    config = dataclasses.replace(config, mesh=mesh, init_from=f"{workdir}{suffix}")
    with jax.set_mesh(make_mesh(mesh)):
        state, wanted = inherit(config), states.abstract(config)
    jax.tree.map(np.testing.assert_array_equal, state.params, saved[step].params)
    assert int(state.step) == 0 and not any(leaf.any() for leaf in jax.tree.leaves(state.optimizer))
    jax.tree.map(same_place, state, wanted)


def same_place(leaf: jax.Array, target: jax.ShapeDtypeStruct) -> None:
    assert leaf.sharding.is_equivalent_to(target.sharding, leaf.ndim)


@pytest.mark.parametrize(("mesh", "length"), [(MESHES[1], 32), (MESHES[2], 40)])
def test_longer_rows_leave_short_ones_as_they_were(source, mesh: Mesh, length: int) -> None:
    workdir, saved, config = source
    longer = dataclasses.replace(changed(config, length=length), mesh=mesh, init_from=str(workdir))
    rng = np.random.default_rng(0)
    tokens, positions = rng.integers(0, len(WORDS), (8, 16)), np.tile(np.arange(16), (8, 1))
    with jax.set_mesh(make_mesh(mesh)):
        state = inherit(longer)
        jax.tree.map(same_place, state, states.abstract(longer))
        batch = put_batch({"tokens": tokens, "positions": positions})
        found = np.asarray(logits(longer.model, state.params, **batch))
    with jax.set_mesh(make_mesh(Mesh(), jax.devices()[:1])):
        wanted = logits(config.model, saved[6].params, tokens=tokens, positions=positions)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    table, old = np.asarray(state.params["embeddings"]["position"]), saved[6].params["embeddings"]["position"]
    np.testing.assert_array_equal(table, np.concatenate([old, old, old])[:length])


def test_a_run_that_has_checkpoints_goes_on_from_them(source) -> None:
    workdir, saved, config = source
    with jax.set_mesh(make_mesh(Mesh(), jax.devices()[:1])):
        state = first_state(dataclasses.replace(config, init_from="nowhere"), Checkpoints(workdir))
    assert int(state.step) == 6
    jax.tree.map(np.testing.assert_array_equal, state.params, saved[6].params)


@pytest.mark.parametrize(
    ("model", "suffix", "message"),
    [
        ({"length": 8}, "", "model.length: found 8, wanted at least 16, the length of .*run@home"),
        ({"layers": 3}, "", r".*6/params: found layers\.\S* of shape \[2, .*wanted layers\.\S* of shape \[3, "),
        ({"dim": 64, "length": 32}, "", r".*found embeddings.norm.bias of shape \[32\], wanted \S* of shape \[64\]"),
        ({"attention": "standard"}, "@5", r".*5/params: found no layers.attention.key.bias, wanted"),
        ({}, "@7", r"checkpoint: found no step 7 in .*wanted one of \[5, 6\]"),
        ({}, "/nowhere", "checkpoint: found no .*nowhere/checkpoints, wanted the workdir of a pretrain run"),
    ],
)
def test_another_model_is_one_clear_error(source, model: dict, suffix: str, message: str, tmp_path: Path) -> None:
    workdir, _, config = source
    config = dataclasses.replace(changed(config, **model), init_from=f"{workdir}{suffix}")
    refused(config, message, tmp_path)


def test_other_words_are_one_clear_error(source, tmp_path: Path) -> None:
    workdir, _, config = source
    other = write_corpus(tmp_path / "other", words=[*WORDS[:-1], "other"])
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, dir=str(other)), init_from=str(workdir))
    refused(config, f"data.dir: found another vocabulary in {other}, wanted that of {workdir}/vocab.txt", tmp_path)


def refused(config: Config, message: str, workdir: Path) -> None:
    """By the check before the run, and by the run."""
    with jax.set_mesh(make_mesh(Mesh(), jax.devices()[:1])):
        with pytest.raises(UserError) as checked:
            list(problems(config, epath.Path(workdir / "new")))
        with pytest.raises(UserError) as run:
            inherit(config)
    assert str(checked.value) == str(run.value) and re.match(message, str(run.value))
