"""Dropout and GELU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symbert_jax.model.layers import dropout, gelu


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(rate, mesh):
    x = jnp.ones((1000, 1000))
    y = np.asarray(dropout(x, rate, jax.random.key(0)))
    dropped = (y == 0).mean()
    assert dropped == pytest.approx(rate, abs=0.002)  # at least 4 standard deviations of the mean of 10^6 draws
    np.testing.assert_allclose(y[y != 0], 1 / (1 - rate), rtol=1e-5)  # a rate is a multiple of 2^-16


def test_dropout_is_off_without_a_key_or_a_rate(mesh):
    x = jnp.ones((4, 4))
    assert dropout(x, 0.5, None) is x
    assert dropout(x, 0.0, jax.random.key(0)) is x


def test_gelu_and_its_gradient_are_exact(mesh):
    x = jnp.linspace(-6, 6, 1001)
    wanted = jax.vmap(jax.value_and_grad(lambda x: jax.nn.gelu(x, approximate=False)))(x)
    found = jax.vmap(jax.value_and_grad(gelu))(x)
    np.testing.assert_allclose(found[0], wanted[0], atol=1e-6)
    np.testing.assert_allclose(found[1], wanted[1], atol=1e-6)
    assert gelu(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_dropout_takes_odd_widths(mesh):
    y = np.asarray(dropout(jnp.ones((100, 7)), 0.5, jax.random.key(0)))
    assert y.shape == (100, 7) and 0.4 < (y[:, -1] == 0).mean() < 0.6


def test_dropout_masks_of_neighbours_and_of_keys_are_independent(mesh):
    """Independent masks agree in 0.9² + 0.1² = 0.82 of their elements; the tolerance is 4.7 standard deviations."""
    keys = [jax.random.fold_in(jax.random.key(0), i) for i in range(4)]
    masks = [np.asarray(dropout(jnp.ones((1000, 1000)), 0.1, key)) == 0 for key in keys]
    pairs = [(masks[i], masks[j]) for i in range(4) for j in range(i)]
    for rows, columns in ((0, 1), (1, 0), (0, 2), (1, 1), (0, 64), (0, 128), (8, 0), (500, 0)):
        pairs.append((masks[0], np.roll(masks[0], (rows, columns), (0, 1))))
    for one, other in pairs:
        assert (one == other).mean() == pytest.approx(0.82, abs=0.0018)


def test_dropout_gradient_has_its_mask_and_scale(mesh):
    x = jnp.ones((100, 100))
    gradient = jax.grad(lambda x: jnp.sum(jnp.sin(dropout(x, 0.3, jax.random.key(1)))))(x)
    scale = dropout(x, 0.3, jax.random.key(1))  # because x is 1
    np.testing.assert_allclose(gradient, jnp.cos(scale) * scale, rtol=1e-5)
