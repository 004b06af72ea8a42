import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symbert_jax.config import ATTENTIONS, OptimConfig
from symbert_jax.train.optimizer import decay_mask, make_optimizer, schedule
from tests.conftest import configure, init_params_numpy


def test_the_schedule_goes_up_to_the_rate_and_down_to_zero() -> None:
    rate = schedule(OptimConfig(learning_rate=1e-4, warmup_steps=10_000), 200_000)
    found = [float(rate(step)) for step in (0, 5_000, 10_000, 105_000, 200_000)]
    np.testing.assert_allclose(found, [0, 5e-5, 1e-4, 5e-5, 0], atol=1e-10)


def test_a_cosine_is_late_to_come_down() -> None:
    rate = schedule(OptimConfig(learning_rate=1e-4, warmup_steps=10_000, schedule="cosine"), 210_000)
    found = [float(rate(step)) for step in (0, 10_000, 60_000, 110_000, 160_000, 210_000)]
    np.testing.assert_allclose(
        found, [0, 1e-4, 0.5e-4 * (1 + 0.5**0.5), 0.5e-4, 0.5e-4 * (1 - 0.5**0.5), 0], atol=1e-10
    )


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_decay_spares_biases_and_layer_norm_alone(attention) -> None:
    mask = decay_mask(init_params_numpy(configure(model={"attention": attention}).model))
    spared = {jax.tree_util.keystr(path) for path, decays in jax.tree.leaves_with_path(mask) if not decays}
    decayed = {jax.tree_util.keystr(path) for path, decays in jax.tree.leaves_with_path(mask) if decays}
    assert all(name.endswith(("['bias']", "['scale']")) for name in spared)
    assert all(
        name.endswith(("['kernel']", "['word']", "['position']", "['token_type']", "['pair']")) for name in decayed
    )
    assert ("['layers']['attention']['pair']" in decayed) == (attention == "pairwise")


def update(optim: OptimConfig, gradient: float, weight: float) -> dict[str, float]:
    """The change of a kernel and a bias of 4 equal numbers by the first update at learning rate 1."""
    params = {"kernel": jnp.full(4, weight), "bias": jnp.full(4, weight)}
    optimizer = make_optimizer(optim)
    updates, _ = optimizer.update(
        jax.tree.map(lambda leaf: jnp.full(4, gradient), params), optimizer.init(params), params
    )
    return {name: float(leaf[0]) for name, leaf in updates.items()}


def test_adamw_by_hand() -> None:
    """The first Adam step is the sign of the gradient; decay is decoupled."""
    found = update(OptimConfig(weight_decay=0.01), gradient=3.0, weight=2.0)
    assert found["kernel"] == pytest.approx(1 + 0.01 * 2, rel=1e-5)
    assert found["bias"] == pytest.approx(1, rel=1e-5)


def test_lamb_scales_by_the_norm_of_the_weights() -> None:
    found = update(OptimConfig(name="lamb", weight_decay=0.0), gradient=3.0, weight=2.0)
    assert found["kernel"] == pytest.approx(2, rel=1e-5)  # |w| / |update| = 2 / 1 per element


def test_lamb_scales_every_layer_by_itself_and_biases_not_at_all() -> None:
    optim = OptimConfig(name="lamb", weight_decay=0.0)
    kernel = jnp.stack([jnp.full(4, 2.0), jnp.full(4, 5.0)])
    params = {"layers": {"kernel": kernel, "bias": jnp.full((2, 4), 3.0)}}
    optimizer = make_optimizer(optim)
    gradients = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    np.testing.assert_allclose(updates["layers"]["kernel"][:, 0], [2, 5], rtol=1e-5)
    np.testing.assert_allclose(updates["layers"]["bias"], 1, rtol=1e-5)


def test_clipping_bounds_the_global_norm() -> None:
    """With eps far above the gradient Adam is linear in it, and what clipping takes away shows."""
    tame = OptimConfig(weight_decay=0.0, eps=1e3, clip=0.0)
    free = update(tame, gradient=10.0, weight=0.0)["kernel"]
    clipped = update(OptimConfig(**{**vars(tame), "clip": 1.0}), gradient=10.0, weight=0.0)["kernel"]
    assert clipped / free == pytest.approx(1 / np.sqrt(8 * 100), rel=0.02)
