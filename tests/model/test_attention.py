"""What the three compatibility functions have in common and what sets them apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice

from symbert_jax.config import ATTENTIONS
from symbert_jax.model import attention, bert
from tests.conftest import configure, init_params_numpy


@pytest.fixture
def scores(mesh):
    """`scores(attention, pair=...)`: scores [B N T S] before softmax of one attention on a fixed input."""

    def score(kind, **weights):
        config = configure(model={"attention": kind}).model
        params = init_params_numpy(config)
        layer = jax.tree.map(lambda leaf: leaf[0], params["layers"])
        # one query for all three, so that only the compatibility function differs
        layer["attention"]["query"]["kernel"] = jax.random.normal(jax.random.key(5), (32, 4, 8)) / 6
        layer["attention"]["query"]["bias"] = jax.random.normal(jax.random.key(6), (4, 8)) / 6
        layer["attention"] |= weights
        attend = bert.module(config, params | {"layers": layer}).layers.attention
        q, k = attend.query_key(jax.random.normal(jax.random.key(7), (2, 16, 32)))
        return np.asarray(jnp.einsum("BTNH,BSNH->BNTS", q, k)), layer["attention"]

    return score


def test_symmetric_scores_are_symmetric(scores):
    found, _ = scores("symmetric")
    np.testing.assert_allclose(found, found.swapaxes(2, 3), atol=1e-6)
    for kind in ("standard", "pairwise"):
        other, _ = scores(kind)
        assert np.abs(other - other.swapaxes(2, 3)).max() > 0.1


def test_pairwise_with_the_identity_is_symmetric(scores):
    wanted, _ = scores("symmetric")
    found, _ = scores("pairwise", pair=jnp.broadcast_to(jnp.eye(8), (4, 8, 8)))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_standard_with_key_equal_to_query_is_symmetric(scores):
    wanted, weights = scores("symmetric")
    found, _ = scores("standard", key=weights["query"])
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])  # each multiplies in its own way
def test_pairwise_is_q_P_q_with_the_query_on_the_left(scores, platform, monkeypatch):
    device = AbstractDevice(device_kind=platform, num_cores=None, platform=platform)
    monkeypatch.setattr(attention, "device", lambda: device)
    plain, _ = scores("symmetric")
    pair = np.zeros((4, 8, 8), np.float32)
    pair[:, 0, 1] = 1  # then the score is q_t[0] q_s[1]
    found, weights = scores("pairwise", pair=jnp.asarray(pair))
    x = jax.random.normal(jax.random.key(7), (2, 16, 32))
    q = np.einsum("BTD,DNH->BTNH", x, weights["query"]["kernel"]) + np.asarray(weights["query"]["bias"])
    np.testing.assert_allclose(found, np.einsum("BTN,BSN->BNTS", q[..., 0], q[..., 1]), atol=1e-5)
    assert plain.shape == found.shape


def test_symmetric_and_pairwise_save_the_key_projection(mesh):
    """Of D x D matrix products in a layer, standard has four; the others really have three."""

    def projections(attention):
        config = configure(model={"attention": attention}).model
        tokens = jnp.zeros((3, 16), jnp.int32)
        params = init_params_numpy(config)
        program = jax.make_jaxpr(lambda params: bert.logits(config, params, tokens, tokens[:, :4]))(params)
        (scan,) = [eqn for eqn in program.eqns if eqn.primitive.name == "scan"]
        shapes = [
            sorted(np.prod(v.aval.shape) for v in eqn.invars)
            for eqn in scan.params["jaxpr"].eqns
            if eqn.primitive.name == "dot_general"
        ]
        return sum(shape == [32 * 32, 3 * 16 * 32] for shape in shapes)

    assert [projections(attention) for attention in ATTENTIONS] == [4, 3, 3]
