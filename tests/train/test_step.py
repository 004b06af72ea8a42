"""The training step, on any mesh and with any number of micro-batches."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symbert_jax.config import Config, MeshConfig
from symbert_jax.model import bert
from symbert_jax.sharding import make_mesh, put_batch
from symbert_jax.train import state as states
from symbert_jax.train.state import State
from symbert_jax.train.step import Sums, make_train_step, mlm_objective, update_ema
from symbert_jax.train.validate import make_validation_step
from tests.conftest import configure, init_params_numpy, make_batch
from tests.forms import FORMS

MESHES = [
    MeshConfig(data=1),
    MeshConfig(data=2, model=4),
    MeshConfig(data=8, fsdp=True),
    MeshConfig(data=4, model=2, fsdp=True),
]


make_train_step = functools.cache(make_train_step)  # to compile once


def mean_loss(sums: Sums) -> float:
    total, count = sums["loss"]
    return float(total / count)


def init(config: Config) -> State:
    """Returns `states.init` on the current mesh, without compiling the draw of the parameters for every mesh."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, bert.abstract(config.model, config.mesh))
    return states.init_from_params(config, jax.device_put(init_params_numpy(config.model), shardings))


def take_steps(config: Config, steps: int) -> tuple[list[Sums], State]:
    """Returns the sums of each step on the devices of `config.mesh`, and the state after the last."""
    mesh, found = config.mesh, []
    with jax.set_mesh(make_mesh(mesh, jax.devices()[: mesh.data * mesh.model])):
        state, train_step = init(config), make_train_step(config)
        for step in range(steps):
            state, sums = train_step(state, put_batch(make_batch(config, seed=step)))
            found.append(jax.device_get(sums))
    return found, state


class Run(NamedTuple):
    losses: list[float]
    num_compilations: int
    bytes_per_device: int  # of parameters and moments


def run(mesh: MeshConfig) -> Run:
    """Takes 20 steps with dropout."""
    config = configure(model={"attention": "pairwise"}, mesh=mesh)
    sums, state = take_steps(config, steps=20)
    arrays = jax.tree.leaves((state.params, state.optimizer))
    bytes_per_device = sum(array.addressable_shards[0].data.nbytes for array in arrays)
    return Run(list(map(mean_loss, sums)), make_train_step(config)._cache_size(), bytes_per_device)


@pytest.fixture(scope="module")
def runs() -> dict[MeshConfig, Run]:
    return {mesh: run(mesh) for mesh in MESHES}


def test_losses_with_dropout_agree_on_every_mesh(runs) -> None:
    wanted = runs[MeshConfig(data=1)].losses
    assert wanted[0] > wanted[-1]
    for mesh, found in runs.items():
        np.testing.assert_allclose(found.losses, wanted, atol=1e-3, err_msg=str(mesh))


@pytest.mark.parametrize("form", [FORMS["identity_query"], FORMS["low_rank"] | FORMS["narrow_keys"]], ids=str)
def test_forms_of_attention_train_alike_on_any_mesh(form) -> None:
    """Parameters of these forms have shapes of their own."""
    model = form | {"layers": 1, "dropout": 0.0, "attention_dropout": 0.0}
    losses = [
        list(map(mean_loss, take_steps(configure(model=model, mesh=mesh), 2)[0]))
        for mesh in (MeshConfig(data=1), MeshConfig(data=4, model=2, fsdp=True))
    ]
    np.testing.assert_allclose(*losses, atol=1e-5)


def test_step_compiles_once(runs) -> None:
    assert {mesh: found.num_compilations for mesh, found in runs.items()} == dict.fromkeys(runs, 1)


def test_fsdp_shards_parameters_and_moments_along_data(runs) -> None:
    """Every matrix is sharded over 8 devices, except P, which has no width D."""
    whole = runs[MeshConfig(data=1)].bytes_per_device
    for mesh in (MeshConfig(data=8, fsdp=True), MeshConfig(data=4, model=2, fsdp=True)):
        assert runs[mesh].bytes_per_device < 0.25 * whole


ONE_LAYER = configure(model={"layers": 1})


def test_dropout_depends_on_seed_and_step(mesh) -> None:
    batch = put_batch(make_batch(ONE_LAYER))

    def loss_at(seed: int, step: int) -> float:
        state = init(ONE_LAYER)._replace(step=jnp.int32(step))
        return mean_loss(make_train_step(dataclasses.replace(ONE_LAYER, seed=seed))(state, batch)[1])

    first = loss_at(0, 0)
    assert loss_at(0, 0) == first
    assert len({first, loss_at(0, 1), loss_at(1, 0), loss_at(1, 1)}) == 4


def test_bfloat16_step_learns_as_float32_does(mesh) -> None:
    """The step computes with 8 significant bits, and keeps parameters and moments in float32."""
    losses = {}
    for dtype in ("float32", "bfloat16"):
        config = dataclasses.replace(ONE_LAYER, model=dataclasses.replace(ONE_LAYER.model, dtype=dtype))
        state, batch = init(config), put_batch(make_batch(config))
        losses[dtype] = []
        for _ in range(10):
            state, sums = make_train_step(config)(state, batch)
            losses[dtype].append(mean_loss(sums))
        floats = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        assert {str(leaf.dtype) for leaf in floats} == {"float32"} and len(floats) > 40
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(state))
    assert losses["float32"][-1] < losses["float32"][0] - 1
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=1e-2)
    assert losses["bfloat16"][0] != losses["float32"][0]


def test_micro_batches_on_any_mesh_equal_one_batch_on_one_device() -> None:
    """Every masked position has the same weight, although micro-batches have different numbers of them."""

    def take(accumulate: int, mesh: MeshConfig) -> tuple[list[Sums], bert.Params]:
        model = {"dropout": 0.0, "attention_dropout": 0.0}
        optim = {"accumulate": accumulate, "warmup_steps": 0, "eps": 1e-3}
        sums, state = take_steps(configure(model=model, optim=optim, mesh=mesh), steps=2)
        return sums, jax.device_get(state.params)

    sums, params = take(accumulate=1, mesh=MeshConfig(data=1))
    for mesh in (MeshConfig(data=2), MeshConfig(data=4, model=2, fsdp=True)):
        sums4, params4 = take(accumulate=4, mesh=mesh)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), sums, sums4)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), params, params4)


def test_step_without_targets_changes_nothing_but_the_step_number(mesh) -> None:
    config = configure(optim={"name": "lamb", "accumulate": 4, "ema": 0.5})
    batch = make_batch(config)
    step = make_train_step(config, may_lack_targets=True)
    state, _ = step(init(config), put_batch(batch))  # moments are no longer 0
    before = jax.tree.map(np.array, state)
    state, sums = step(state, put_batch(batch._replace(weights=np.zeros_like(batch.weights))))
    assert int(state.step) == int(before.step) + 1
    jax.tree.map(np.testing.assert_array_equal, state[1:], before[1:])
    assert {name: tuple(map(float, pair)) for name, pair in sums.items()} == dict.fromkeys(sums, (0, 0))


def test_moving_average_has_a_short_memory_at_first() -> None:
    old, new = {"a": jnp.float32(1)}, {"a": jnp.float32(2)}
    found = [float(update_ema(0.9, old, new, jnp.int32(step))["a"]) for step in (0, 10, 1000)]
    assert found == pytest.approx([1.9, 2 - 11 / 20, 1.1])


def test_loss_is_cross_entropy_over_the_weighted_positions(mesh) -> None:
    config = configure()
    batch, params = make_batch(config), init_params_numpy(config.model)  # 56 of the 64 positions have weight 1
    sums = jax.jit(mlm_objective, static_argnums=0)(config.model, params, batch, key=None)
    logits = np.asarray(bert.logits(config.model, params, batch.tokens, batch.positions), np.float64)
    log_probability = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    picked = np.take_along_axis(log_probability, batch.targets[..., None], axis=-1)[..., 0]
    correct = ((logits.argmax(-1) == batch.targets) * batch.weights).sum()
    assert tuple(map(float, sums["loss"])) == pytest.approx((-(picked * batch.weights).sum(), 56), rel=1e-5)
    assert tuple(map(float, sums["accuracy"])) == (correct, 56)


def test_validation_sums_of_parts_add_up_to_those_of_the_batch(mesh) -> None:
    """A row of weight 0, which pads a batch, counts for nothing."""
    config = configure()
    batch, params = make_batch(config), init_params_numpy(config.model)
    validate = make_validation_step(config)
    whole = validate(params, batch)
    halves = [
        validate(params, batch._replace(weights=batch.weights * keep[:, None]))
        for keep in (np.arange(16) < 8, np.arange(16) >= 8)
    ]
    added = jax.tree.map(jnp.add, *halves)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), added, whole)
    assert float(whole["loss"][1]) == batch.weights.sum() == 56 and jnp.isfinite(whole["loss"][0])
