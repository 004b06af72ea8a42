"""The classification head, and that padding is nothing to it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symbert_jax.config import ATTENTIONS, MeshConfig
from symbert_jax.model import bert, classifier
from tests.conftest import configure, init_params_numpy


def model(attention: str = "standard"):
    config = configure(model={"attention": attention}).model
    head = jax.tree.map(np.asarray, classifier.init_head(config, 3, jax.random.key(1)))
    return config, {**init_params_numpy(config), "head": head}


def logits(config, params, tokens, lengths, key=None):
    position_ids = np.arange(tokens.shape[1])
    types, mask = np.zeros_like(tokens), position_ids < lengths[:, None]
    return np.asarray(classifier.logits(config, 3, params, tokens, token_types=types, mask=mask, key=key))


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_padding_changes_nothing(mesh, attention) -> None:
    config, params = model(attention)
    tokens = np.random.default_rng(0).integers(0, 128, (2, 16), dtype=np.int32)
    lengths = np.array([5, 8])
    short = logits(config, params, tokens[:, :8], lengths)
    tokens[:, 8:] = 7
    np.testing.assert_allclose(logits(config, params, tokens, lengths), short, atol=1e-6)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_it_is_the_pooler_of_bert_by_hand(mesh, attention) -> None:
    config, params = model(attention)
    tokens = np.random.default_rng(0).integers(0, 128, (2, 8), dtype=np.int32)
    found = logits(config, params, tokens, np.array([8, 8]))
    x = np.asarray(bert.module(config, init_params_numpy(config)).encode(jnp.asarray(tokens), None, None, None))[:, 0]
    head = params["head"]
    pooled = np.tanh(x @ head["pooler"]["kernel"] + head["pooler"]["bias"])
    wanted = pooled @ head["classifier"]["kernel"] + head["classifier"]["bias"]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_dropout_reaches_the_head(mesh) -> None:
    config, params = model()
    tokens = np.ones((1, 8), np.int32)
    first, second = (logits(config, params, tokens, np.array([8]), jax.random.key(seed)) for seed in (0, 1))
    assert np.abs(first - second).max() > 1e-4


def test_values_of_a_regression_are_finer_than_the_activations(mesh) -> None:
    """Similarities around 4 would be a 32nd apart in bfloat16, and ranks would tie."""
    config, params = model()
    config = dataclasses.replace(config, dtype="bfloat16")
    tokens = np.random.default_rng(0).integers(0, 128, (8, 8), dtype=np.int32)
    found = logits(config, params, tokens, np.full(8, 8))
    assert (found != found.astype(jnp.bfloat16)).mean() > 0.9


def test_sharded_heads_have_the_shapes_of_their_letters() -> None:
    from symbert_jax.sharding import make_mesh

    config, _ = model()
    with jax.set_mesh(make_mesh(MeshConfig(model=2))):
        head = classifier.abstract(config, 3, MeshConfig(model=2))["head"]
    assert head["pooler"]["kernel"].shape == (32, 32) and head["classifier"]["kernel"].shape == (32, 3)
