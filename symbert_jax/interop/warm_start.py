"""Converts a trained standard model to symmetric or pairwise attention, so that each head attends almost as before.

In general, there is no exact conversion: per head, the matrix Wq Wk^T of a standard score has different column and row
spaces, and those of W P W^T are the same. The initial weights are the W and P with the least squared error of scores
over the tokens of a text. Adam then fits the attention probabilities themselves, layer by layer, on the inputs that
each layer has in the standard model.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from symbert_jax.config import ModelConfig, OptimConfig
from symbert_jax.model import tree
from symbert_jax.model.attention import TiedAttention, find_variant
from symbert_jax.model.encoder import Embeddings, Layer
from symbert_jax.model.kernels import probabilities
from symbert_jax.model.tree import Params
from symbert_jax.train.optimizer import make_optimizer, schedule
from symbert_jax.train.state import State
from symbert_jax.train.step import Sums, make_update

STEPS = 300  # updates of Adam per layer
_OPTIM = OptimConfig(learning_rate=2e-3, warmup_steps=20, weight_decay=0.0)


def convert(
    model: ModelConfig, params: Params, target: ModelConfig, tokens: Int[np.ndarray, "B T"]
) -> tuple[Params, Float[np.ndarray, "L N"]]:
    """Converts the parameters of `model`, a standard one, to those of `target`, which differs only in its attention.

    Call under `jax.set_mesh` with a mesh of one device.

    Args:
      tokens: rows of real text without padding. The weights are fitted on the first half and evaluated on the second.

    Returns:
      The parameters, and how much the attention of each layer and head changed: the total variation distance of its
      probabilities from those of the standard model, from 0 to 1, as a mean over the queries of the second half.
    """
    run_layer = jax.jit(lambda weights, x: tree.module(weights, Layer, model)(x)[0])
    step = jax.jit(make_update(functools.partial(_objective, model, target), _OPTIM))
    converted, distances = [], []
    x = jax.jit(lambda weights: tree.module(weights, Embeddings, model)(tokens))(params["embeddings"])
    for layer in range(model.layers):
        weights = jax.tree.map(lambda leaf, layer=layer: leaf[layer], params["layers"])
        standard = weights["attention"]
        fitted, held_out = jnp.split(x, 2)
        score_weights = _initial_weights(target, standard, np.asarray(fitted, np.float64).reshape(-1, model.dim))
        state = State(step=jnp.int32(0), params=score_weights, optimizer=make_optimizer(_OPTIM).init(score_weights))
        for i in range(STEPS):
            key = jax.random.key(0)  # for dropout; `_objective` ignores it
            state, _ = step(state, (standard, fitted), key, schedule(_OPTIM, STEPS)(i))
        distances.append(np.asarray(_distance(model, target, standard, state.params, held_out)))
        converted.append(_with_scores(standard, state.params))
        x = run_layer(weights, x)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *converted)
    return params | {"layers": params["layers"] | {"attention": stacked}}, np.stack(distances)


def _initial_weights(target: ModelConfig, standard: Params, x: Float[np.ndarray, "R D"]) -> Params:
    """Returns, for each head, the W and P whose W P W^T is nearest to Wq Wk^T over pairs of tokens, and the bias.

    x: the inputs of the layer, one row per token. Their mean is subtracted, because softmax ignores what the scores of
      a query for all keys have in common.
    """
    variant = find_variant(target)
    assert issubclass(variant, TiedAttention)
    mean = x.mean(0)
    centred = x - mean
    root = _root(centred.T @ centred / len(x))  # |root F root|^2 is the mean square of x_t^T F x_s, for any F
    kernels, pairs, biases = [], [], []
    standard = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), standard)
    for head in range(target.heads):
        query, key = standard["query"]["kernel"][:, head], standard["key"]["kernel"][:, head]
        columns = np.concatenate([query, key], axis=1)  # the columns of the best W are linear combinations of these
        coordinates = np.linalg.qr(root @ columns, mode="r")  # of root @ columns, in an orthonormal basis of its range
        query_coordinates, key_coordinates = np.split(coordinates, 2, axis=1)
        kernel_coordinates, pair = variant.fit(query_coordinates @ key_coordinates.T, query.shape[1])
        kernel = columns @ np.linalg.lstsq(coordinates, kernel_coordinates, rcond=None)[0]
        # The bias gives the query of the mean token, as nearly as possible, the same scores as before.
        mean_scores = root @ key @ (mean @ query + standard["query"]["bias"][head])
        mean_query = np.linalg.lstsq(root @ kernel @ pair.T, mean_scores, rcond=None)[0]
        if variant.has_pair:  # W gets the norm of the query kernel that it replaces; P compensates
            scale = np.linalg.norm(query) / np.linalg.norm(kernel)
            kernel, pair, mean_query = kernel * scale, pair / scale**2, mean_query * scale
        kernels.append(kernel)
        pairs.append(pair)
        biases.append(mean_query - mean @ kernel)
    weights: Params = {"query": {"kernel": np.stack(kernels, axis=1), "bias": np.stack(biases)}}
    if variant.has_pair:
        weights["pair"] = variant.pair_parameter(np.stack(pairs))
    return jax.tree.map(lambda leaf: leaf.astype(np.float32), weights)


def _root(matrix: Float[np.ndarray, "D D"]) -> Float[np.ndarray, "D D"]:
    """Returns the square root of a positive semidefinite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def _with_scores(standard: Params, score_weights: Params) -> Params:
    """Returns all weights of attention: those of value and output from `standard`, and `score_weights`."""
    return {"value": standard["value"], "output": standard["output"], **score_weights}


def _probabilities(model: ModelConfig, weights: Params, x: Float[Array, "B T D"]) -> Float[Array, "B N T S"]:
    q, k = tree.module(weights, find_variant(model), model).query_key(x)
    return probabilities(q, k, segments=None)


def _objective(
    model: ModelConfig,
    target: ModelConfig,
    score_weights: Params,
    batch: tuple[Params, Float[Array, "B T D"]],
    _: Array,
) -> Sums:
    """Returns the cross entropy of the converted against the standard attention, and the number of its summands.

    The cross entropy is a sum over rows, heads and queries.
    """
    standard, x = batch
    wanted, found = _probabilities(model, standard, x), _probabilities(target, _with_scores(standard, score_weights), x)
    total = -jnp.sum(wanted * jnp.log(found + 1e-9))
    return {"loss": (total, jnp.float32(wanted.size // wanted.shape[-1]))}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _distance(
    model: ModelConfig, target: ModelConfig, standard: Params, score_weights: Params, x: Float[Array, "B T D"]
) -> Float[Array, " N"]:
    """Returns, by head, the total variation distance of the converted from the standard attention.

    The distance is a mean over rows and queries.
    """
    wanted, found = _probabilities(model, standard, x), _probabilities(target, _with_scores(standard, score_weights), x)
    return jnp.abs(wanted - found).sum(-1).mean((0, 2)) / 2
