"""The switches from BERT to ModernBERT: the model computes what `plain.py` computes, however it is run."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from symbert_jax.config import MeshConfig
from symbert_jax.model import bert
from symbert_jax.sharding import make_mesh, put_batch
from symbert_jax.train.step import mlm_objective
from tests.conftest import configure, init_params_numpy, make_batch
from tests.forms import FORMS, MODERN
from tests.model import plain

CASES = {
    "pre, windows": {"norm": "pre", "window": 6, "global_every": 2},
    "post, rope, geglu": {"positions": "rope", "mlp": "geglu", "norm_eps": 0.1},
    **{
        f"modern, {name}": MODERN | FORMS[name]
        for name in ("identity_query", "diagonal", "low_rank", "narrow_pairwise")
    },
    **{f"modern, {name}": MODERN | {"attention": name} for name in ("standard", "symmetric", "pairwise")},
}
SEGMENTS = np.array([[1] * 16, [1] * 5 + [2] * 11, [1] * 9 + [0] * 7, [1] + [0] * 15], np.int32)


@functools.cache
def sharp_params(model):
    """Returns parameters with attention far from uniform, and with biases that are not 0."""
    rng = np.random.default_rng(0)

    def change(path, leaf):
        is_bias = path[-1].key == "bias"
        return np.float32(rng.normal(size=leaf.shape) / 3) if is_bias else np.float32(4 * leaf)

    return jax.tree.map_with_path(change, init_params_numpy(model))


@pytest.mark.parametrize("fields", CASES.values(), ids=CASES)
def test_logits_equal_a_plain_computation(fields, mesh) -> None:
    model = configure(model=fields).model
    params, tokens = sharp_params(model), make_batch(configure(), rows=4).tokens
    wanted = plain.logits(model, jax.tree.map(np.float64, params), tokens, SEGMENTS)
    everywhere = np.broadcast_to(np.arange(16, dtype=np.int32), tokens.shape)
    found = jax.jit(bert.logits, static_argnums=0)(model, params, tokens, everywhere, segments=SEGMENTS)
    is_real = SEGMENTS > 0
    np.testing.assert_allclose(np.asarray(found)[is_real], wanted[is_real], atol=2e-4, rtol=1e-4)
    assert np.isfinite(found).all(), "a NaN of padding would reach the gradients of all tokens"


def test_loss_and_gradients_are_the_same_however_the_layers_run() -> None:
    """On one device without a loop, and on eight in a loop over a period of three layers, with FSDP and remat."""
    model = configure(model=MODERN | {"attention": "pairwise"}).model
    params, batch = init_params_numpy(model), make_batch(configure(), rows=8)

    def run(devices, mesh_config, **fields):
        changed = dataclasses.replace(model, **fields)
        with jax.set_mesh(make_mesh(mesh_config, jax.devices()[:devices])):
            shardings = jax.tree.map(lambda leaf: leaf.sharding, bert.abstract(changed, mesh_config))
            gradient = jax.jit(jax.value_and_grad(lambda *arguments: mlm_objective(changed, *arguments)["loss"][0]))
            arguments = jax.device_put(params, shardings), put_batch(batch), jax.random.key(0)
            return jax.tree.map(np.asarray, gradient(*arguments))

    wanted = run(1, MeshConfig(), unroll=4)
    found = run(8, MeshConfig(model=2, fsdp=True), remat="full")
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4, rtol=1e-3), found, wanted)
