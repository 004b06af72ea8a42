"""One step, on any mesh, in any number of pieces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symbert_jax.config import MeshConfig
from symbert_jax.model import bert
from symbert_jax.sharding import make_mesh, put_batch
from symbert_jax.train import state as states
from symbert_jax.train.step import loss, make_train_step
from symbert_jax.train.validate import make_validation_step
from tests.conftest import configure, init_params_numpy, make_batch

MESHES = [
    MeshConfig(data=1),
    MeshConfig(data=8),
    MeshConfig(data=4, model=2),
    MeshConfig(data=2, model=4),
    MeshConfig(data=8, fsdp=True),
    MeshConfig(data=4, model=2, fsdp=True),
]


def run(mesh: MeshConfig, steps: int = 20) -> tuple[list[float], int, int]:
    """Losses of `steps` steps with dropout, compilations, and bytes of the state on one device."""
    config = configure(model={"attention": "pairwise"}, mesh=mesh)
    with jax.set_mesh(make_mesh(mesh, jax.devices()[: mesh.data * mesh.model])):
        state, train_step = states.init(config), make_train_step(config)
        losses = []
        for step in range(steps):
            state, sums = train_step(state, put_batch(make_batch(config, seed=step)))
            losses.append(float(sums["loss"] / sums["count"]))
        leaves = jax.tree.leaves((state.params, state.optimizer))
    return losses, train_step._cache_size(), sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)


@pytest.fixture(scope="module")
def runs():
    return {mesh: run(mesh) for mesh in MESHES}


def test_losses_agree_on_every_mesh_with_dropout_on(runs) -> None:
    wanted = runs[MeshConfig(data=1)][0]
    assert wanted[0] > wanted[-1]
    for mesh, (losses, _, _) in runs.items():
        np.testing.assert_allclose(losses, wanted, atol=1e-3, err_msg=str(mesh))


def test_the_step_compiles_exactly_once(runs) -> None:
    assert {mesh: compilations for mesh, (_, compilations, _) in runs.items()} == dict.fromkeys(runs, 1)


def test_fsdp_shards_parameters_and_moments_along_data(runs) -> None:
    """Every matrix but P, which has no width D, is cut in 8: see the sharding table."""
    whole, eighth = runs[MeshConfig(data=8)][2], runs[MeshConfig(data=8, fsdp=True)][2]
    assert eighth < 0.25 * whole
    assert runs[MeshConfig(data=4, model=2, fsdp=True)][2] < 0.25 * whole


def test_dropout_is_drawn_from_seed_and_step(mesh) -> None:
    """The same parameters and batch at another step, or under another seed, drop something else."""

    configs = [configure(model={"layers": 1}, seed=seed) for seed in (0, 1)]
    train_steps = [make_train_step(config) for config in configs]
    batch = put_batch(make_batch(configs[0]))

    def loss_at(seed: int, step: int) -> float:
        state = states.init_from_params(configs[0], jax.device_put(init_params_numpy(configs[0].model)))._replace(
            step=jnp.int32(step)
        )
        return float(train_steps[seed](state, batch)[1]["loss"])

    first = loss_at(0, 0)
    assert loss_at(0, 0) == first
    assert len({first, loss_at(0, 1), loss_at(1, 0), loss_at(1, 1)}) == 4


def test_accumulating_micro_batches_equals_one_batch() -> None:
    """Rows weigh by their masked positions, of which micro-batches have different numbers."""

    def updated(parts: int):
        config = configure(
            model={"dropout": 0.0, "attention_dropout": 0.0},
            optim={"accumulate": parts, "warmup_steps": 0, "eps": 1e-3},
            mesh=MeshConfig(data=2),
        )
        with jax.set_mesh(make_mesh(config.mesh, jax.devices()[:2])):
            state, sums = make_train_step(config)(states.init(config), put_batch(make_batch(config)))
        return jax.tree.map(np.asarray, (sums, state.params))

    (sums, params), (sums4, params4) = updated(1), updated(4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), sums, sums4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), params, params4)


def test_step_without_targets_changes_nothing_but_the_step_number(mesh) -> None:
    config = configure(optim={"name": "lamb", "accumulate": 4})
    batch = make_batch(config)
    step = make_train_step(config, may_lack_targets=True)
    state, _ = step(states.init(config), put_batch(batch))  # moments are no longer 0
    before = jax.tree.map(np.array, state)
    state, sums = step(state, put_batch(batch._replace(weights=np.zeros_like(batch.weights))))
    assert int(state.step) == int(before.step) + 1
    jax.tree.map(np.testing.assert_array_equal, state[1:], before[1:])
    assert {name: float(value) for name, value in sums.items()} == dict.fromkeys(sums, 0)


def test_the_loss_is_cross_entropy_over_the_weighted_positions(mesh) -> None:
    config = configure()
    batch, params = make_batch(config), init_params_numpy(config.model)
    total, sums = jax.jit(loss, static_argnums=0)(config.model, params, batch, None)
    logits = np.asarray(bert.logits(config.model, params, batch.tokens, batch.positions), np.float64)
    log_probability = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    picked = np.take_along_axis(log_probability, batch.targets[..., None], axis=-1)[..., 0]
    assert float(total) == pytest.approx(-(picked * batch.weights).sum(), rel=1e-5)
    assert float(sums["count"]) == batch.weights.sum()
    assert float(sums["correct"]) == ((logits.argmax(-1) == batch.targets) * batch.weights).sum()


def test_validation_counts_like_the_loss_and_ignores_padded_rows(mesh) -> None:
    config = configure()
    batch, params = make_batch(config), init_params_numpy(config.model)
    validate = make_validation_step(config)
    whole = validate(params, batch)
    halves = [
        validate(params, batch._replace(weights=batch.weights * keep[:, None]))
        for keep in (np.arange(16) < 8, np.arange(16) >= 8)
    ]
    for name in whole:
        assert float(whole[name]) == pytest.approx(float(halves[0][name] + halves[1][name]), rel=1e-6)
    assert float(whole["count"]) == batch.weights.sum()
    assert jnp.isfinite(whole["loss"])
