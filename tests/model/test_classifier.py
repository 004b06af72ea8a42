"""The classifier: its head, and its independence of padding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symbert_jax.config import ATTENTIONS, MeshConfig
from symbert_jax.model import bert, classifier
from symbert_jax.model.layers import gelu
from symbert_jax.sharding import make_mesh
from tests.conftest import configure, init_params_numpy
from tests.forms import MODERN

NUM_OUTPUTS = 3


def make_model(attention: str = "standard", **fields):
    """Returns the config and the parameters of a classifier."""
    config = configure(model={"attention": attention, **fields}).model
    head = jax.tree.map(np.asarray, classifier.init_head(config, NUM_OUTPUTS, jax.random.key(1)))
    return config, {**init_params_numpy(config), "head": head}


jitted = jax.jit(classifier.logits, static_argnums=(0, 1))


def logits(config, params, tokens, lengths, key=None):
    mask = np.arange(tokens.shape[1]) < lengths[:, None]
    token_types = np.zeros_like(tokens)
    return np.asarray(jitted(config, NUM_OUTPUTS, params, tokens, token_types=token_types, mask=mask, key=key))


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_logits_do_not_depend_on_padding(mesh, attention) -> None:
    config, params = make_model(attention)
    tokens = np.random.default_rng(0).integers(0, 128, (2, 16), dtype=np.int32)
    lengths = np.array([5, 8])
    short = logits(config, params, tokens[:, :8], lengths)
    tokens[:, 8:] = 7
    np.testing.assert_allclose(logits(config, params, tokens, lengths), short, atol=1e-6)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_logits_equal_berts_pooler_by_hand(mesh, attention) -> None:
    config, params = make_model(attention)
    tokens = np.random.default_rng(0).integers(0, 128, (2, 8), dtype=np.int32)
    found = logits(config, params, tokens, np.array([8, 8]))
    encoder, head = bert.module(config, init_params_numpy(config)), params["head"]
    x = np.asarray(jax.jit(lambda tokens: encoder.encode(encoder.embeddings(tokens)))(tokens))[:, 0]
    pooled = np.tanh(x @ head["pooler"]["kernel"] + head["pooler"]["bias"])
    wanted = pooled @ head["classifier"]["kernel"] + head["classifier"]["bias"]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_classifier_of_pre_norm_model_keeps_the_transform_of_the_masked_language_head(mesh) -> None:
    """Its first layers read the row with windows, its last one only [CLS]; padding changes nothing."""
    config, params = make_model(**MODERN)
    params |= {"head": params["head"] | classifier.pretrained(config, init_params_numpy(config))["head"]}
    tokens = np.random.default_rng(0).integers(0, 128, (2, 16), dtype=np.int32)
    found = logits(config, params, tokens, np.array([16, 9]))
    np.testing.assert_allclose(logits(config, params, tokens[1:, :9], np.array([9])), found[1:], atol=1e-6)
    encoder, masked = bert.module(config, init_params_numpy(config)), init_params_numpy(config)["head"]
    x = jax.jit(lambda tokens: encoder.encode(encoder.embeddings(tokens)))(tokens)[:1, :1]
    hidden = encoder.head.norm(gelu(x @ masked["dense"]["kernel"]))[:, 0]
    head = params["head"]["classifier"]
    np.testing.assert_allclose(found[:1], hidden @ head["kernel"] + head["bias"], atol=1e-5)
    assert "head" not in classifier.pretrained(*make_model())


def test_only_layer_may_have_a_window_in_its_pattern(mesh) -> None:
    """No layer is left for the loop: the only one computes [CLS] alone."""
    config, tokens = configure(model={"layers": 1, "window": 4}).model, np.ones((2, 8), np.int32)

    def compute(params):
        return classifier.logits(config, NUM_OUTPUTS, params, tokens, token_types=tokens, mask=tokens > 0)

    assert jax.eval_shape(compute, classifier.abstract(config, NUM_OUTPUTS, MeshConfig())).shape == (2, NUM_OUTPUTS)


def test_dropout_reaches_the_head(mesh) -> None:
    config, params = make_model()
    tokens = np.ones((1, 8), np.int32)
    first, second = (logits(config, params, tokens, np.array([8]), jax.random.key(seed)) for seed in (0, 1))
    assert np.abs(first - second).max() > 1e-4


def test_logits_are_finer_than_bfloat16_activations(mesh) -> None:
    """Similarities around 4 would be 1/32 apart in bfloat16, and ranks would tie."""
    config, params = make_model()
    config = dataclasses.replace(config, dtype="bfloat16")
    tokens = np.random.default_rng(0).integers(0, 128, (8, 8), dtype=np.int32)
    found = logits(config, params, tokens, np.full(8, 8))
    assert (found != found.astype(jnp.bfloat16)).mean() > 0.9


def test_sharded_head_has_the_shapes_of_its_letters() -> None:
    config, _ = make_model()
    with jax.set_mesh(make_mesh(MeshConfig(model=2))):
        head = classifier.abstract(config, NUM_OUTPUTS, MeshConfig(model=2))["head"]
    assert head["pooler"]["kernel"].shape == (32, 32) and head["classifier"]["kernel"].shape == (32, NUM_OUTPUTS)
