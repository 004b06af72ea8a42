"""The scores of the variants of attention, compared with each other and with their formulas."""

import ast
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractDevice

import symbert_jax
from symbert_jax.config import ATTENTIONS
from symbert_jax.model import bert, tpu_layouts
from symbert_jax.model.attention import find_variant
from tests.conftest import configure, init_params_numpy


@pytest.fixture
def scores(mesh):
    """`scores(attention, pair=...)` returns the scores [B N T S] of one layer on a fixed input, and its weights."""

    def score(attention, form="full", **weights):
        config = configure(model={"attention": attention, "pairwise_form": form}).model
        params = init_params_numpy(config)
        layer = jax.tree.map(lambda leaf: leaf[0], params["layers"])
        # the same query for all variants, so that only their scores differ
        layer["attention"]["query"]["kernel"] = jax.random.normal(jax.random.key(5), (32, 4, 8)) / 6
        layer["attention"]["query"]["bias"] = jax.random.normal(jax.random.key(6), (4, 8)) / 6
        layer["attention"] |= weights
        module = bert.module(config, params | {"layers": layer}).layers.attention
        q, k = module.query_key(jax.random.normal(jax.random.key(7), (2, 16, 32)))
        return np.asarray(jnp.einsum("BTNH,BSNH->BNTS", q, k)), layer["attention"]

    return score


def test_symmetric_scores_are_symmetric(scores):
    found, _ = scores("symmetric")
    np.testing.assert_allclose(found, found.swapaxes(2, 3), atol=1e-6)
    for attention in ("standard", "pairwise"):
        other, _ = scores(attention)
        assert np.abs(other - other.swapaxes(2, 3)).max() > 0.1


def test_pairwise_with_identity_is_symmetric(scores):
    wanted, _ = scores("symmetric")
    found, _ = scores("pairwise", pair=jnp.broadcast_to(jnp.eye(8), (4, 8, 8)))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_diagonal_pair_equals_full_diagonal_matrix(scores):
    diagonal = jax.random.normal(jax.random.key(8), (4, 8))
    wanted, _ = scores("pairwise", pair=diagonal[..., None] * jnp.eye(8))
    found, _ = scores("pairwise", form="diagonal", pair=diagonal)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_standard_with_query_as_key_is_symmetric(scores):
    wanted, weights = scores("symmetric")
    found, _ = scores("standard", key=weights["query"])
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])  # a TPU multiplies by copies of P
def test_pairwise_is_q_P_q_with_query_on_the_left(scores, platform, monkeypatch):
    device = AbstractDevice(device_kind=platform, num_cores=None, platform=platform)
    monkeypatch.setattr(tpu_layouts, "device", lambda: device)
    pair = np.zeros((4, 8, 8), np.float32)
    pair[:, 0, 1] = 1  # then the score is q_t[0] q_s[1]
    found, weights = scores("pairwise", pair=jnp.asarray(pair))
    x = jax.random.normal(jax.random.key(7), (2, 16, 32))
    q = np.einsum("BTD,DNH->BTNH", x, weights["query"]["kernel"]) + np.asarray(weights["query"]["bias"])
    np.testing.assert_allclose(found, np.einsum("BTN,BSN->BNTS", q[..., 0], q[..., 1]), atol=1e-5)


def test_only_attention_knows_the_variants():
    """Besides `attention.py`, only modules that list the values of config fields, ours and the paper's, name them."""
    package = pathlib.Path(symbert_jax.__file__).parent
    files = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in ("symmetric", "pairwise", "diagonal")
    }
    assert files == {"config/schema.py", "interop/architecture.py", "model/attention.py"}


def test_symmetric_and_pairwise_have_no_key_projection(mesh):
    """A standard layer has four D x D matrix products, the others have three."""

    def count_projections(attention):
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

    assert [count_projections(attention) for attention in ATTENTIONS] == [4, 3, 3]


def test_initial_pair_has_form_and_values_of_config():
    def pair(form, init):
        fields = {"attention": "pairwise", "pairwise_form": form, "pairwise_init": init, "dim": 512}
        config = configure(model=fields).model
        return np.asarray(find_variant(config)(config, nnx.Rngs(0)).pair[...])

    np.testing.assert_array_equal(pair("full", "identity"), np.broadcast_to(np.eye(128), (4, 128, 128)))
    np.testing.assert_array_equal(pair("diagonal", "identity"), np.ones((4, 128)))
    drawn = pair("diagonal", "normal")
    assert drawn.shape == (4, 128)
    assert drawn.mean() == pytest.approx(0, abs=0.15) and drawn.std() == pytest.approx(1, abs=0.1)
