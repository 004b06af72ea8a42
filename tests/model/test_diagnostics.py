"""The statistics of attention, compared with a direct computation in numpy, on any mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symbert_jax.config import MeshConfig, ModelConfig
from symbert_jax.model import bert, positions, windows
from symbert_jax.model.diagnostics import attention_statistics
from symbert_jax.sharding import make_mesh, put_batch
from tests.conftest import configure, init_params_numpy, make_batch
from tests.forms import MODERN
from tests.model import plain

SEGMENTS = 1 + (np.arange(16) >= np.array([[16], [5], [1], [9]])).astype(np.int32)
SEGMENTS[0, 11:] = 0  # padding


@functools.partial(jax.jit, static_argnums=0)
def compute(model: ModelConfig, params: bert.Params, tokens, segments=None):
    return attention_statistics(model, params, tokens, segments=segments)


def directly(model: ModelConfig, params: bert.Params, tokens: np.ndarray, segments: np.ndarray) -> dict[str, list]:
    """Computes the statistics of a standard or pairwise model query by query, in float64."""
    wanted = {"logit_std": [], "entropy": [], "symmetry": []}
    bert_module = bert.module(model, params)
    carry = bert_module.start(bert_module.embeddings(tokens))
    for layer, window in enumerate(windows.layer_windows(model)):
        x, base = carry[0], model.rope_theta_local if window else model.rope_theta
        weights = jax.tree.map(lambda leaf, layer=layer: leaf[layer], params["layers"])
        attention = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), weights["attention"])
        query = attention["query"]["kernel"]
        q = np.einsum("BTD,DNH->BTNH", np.asarray(x, np.float64), query) + attention["query"].get("bias", 0)
        if "pair" in attention:
            k, key = (np.einsum("...NG,NHG->...NH", each, attention["pair"]) for each in (q, query))
        else:
            key = attention["key"]["kernel"]
            k = np.einsum("BTD,DNH->BTNH", np.asarray(x, np.float64), key) + attention["key"]["bias"]
        variances, entropies = [], []
        for row, heads, token in np.ndindex(len(tokens), model.heads, tokens.shape[1]):
            if not segments[row, token]:
                continue
            seen = segments[row] == segments[row, token]
            if window:
                seen = seen & (np.abs(np.arange(tokens.shape[1]) - token) <= window / 2)
            keys, one_query = k[row, seen, heads], q[row, token, heads]
            if model.positions == "rope":
                keys = np.stack([plain.rotate(*each, base) for each in zip(keys, np.flatnonzero(seen), strict=True)])
                one_query = plain.rotate(one_query, token, base)
            logits = keys @ one_query / np.sqrt(q.shape[-1])
            p = np.exp(logits) / np.exp(logits).sum()
            variances.append(logits.var())
            entropies.append(-(p * np.log(p)).sum())
        matrices = np.einsum("DNH,ENH->NDE", query, key)
        scores = [np.sum(((m + m.T) / 2) ** 2) / np.sum(m**2) for m in matrices]
        for name, value in (
            ("logit_std", np.sqrt(np.mean(variances))),
            ("entropy", np.mean(entropies)),
            ("symmetry", np.mean(scores)),
        ):
            wanted[name].append(value)
        rotation = positions.rotation(model, window, tokens.shape[1])
        run_layer = bert.module(model, params | {"layers": weights}).layers
        carry = run_layer(*carry, segments=jnp.asarray(segments), window=window, rotation=rotation)
    return wanted


@pytest.mark.parametrize(
    "fields", [{"attention": "standard"}, {"attention": "pairwise"}, MODERN | {"attention": "pairwise"}], ids=str
)
def test_statistics_equal_a_direct_computation(fields, mesh) -> None:
    model = configure(model=fields).model
    params = jax.tree.map(lambda leaf: 4 * leaf, init_params_numpy(model))  # attention that is far from uniform
    tokens = make_batch(configure(), rows=4).tokens
    found, wanted = compute(model, params, tokens, SEGMENTS), directly(model, params, tokens, SEGMENTS)
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, err_msg=name)
    assert wanted["logit_std"][0] > 0.1
    with jax.set_mesh(make_mesh(MeshConfig(data=4, model=2))):
        shardings = jax.tree.map(lambda leaf: leaf.sharding, bert.abstract(model, MeshConfig(fsdp=True)))
        sharded = compute(model, jax.device_put(params, shardings), put_batch(tokens), put_batch(SEGMENTS))
        assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(sharded))
    for name, values in wanted.items():
        np.testing.assert_allclose(sharded[name], values, rtol=1e-4, err_msg=name)


def test_model_without_scores_has_no_statistics(mesh) -> None:
    model = configure(model={"attention": "uniform"}).model
    assert attention_statistics(model, init_params_numpy(model), make_batch(configure()).tokens) == {}
