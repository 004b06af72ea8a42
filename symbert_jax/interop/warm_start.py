"""A symmetric or pairwise model that attends nearly as a trained standard one does.

No exact form exists: per head the score form Wq Wk^T of a standard model has two column spaces, W P W^T has one. The
start is the best such form in the least squares of scores over the tokens of a text; Adam then brings the attention
probabilities themselves together, layer by layer, on what the layer reads in the standard model.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from symbert_jax.config import ModelConfig, OptimConfig
from symbert_jax.model import bert
from symbert_jax.model.kernels import probabilities
from symbert_jax.model.tree import Params
from symbert_jax.sharding import spec
from symbert_jax.train.optimizer import make_optimizer, schedule
from symbert_jax.train.state import State
from symbert_jax.train.step import Sums, make_update

STEPS = 300
_OPTIM = OptimConfig(learning_rate=2e-3, warmup_steps=20, weight_decay=0.0)
_ROUNDS = 50  # of the search for a head's subspace; it has settled after about 20


def convert(
    model: ModelConfig, params: Params, attention: str, tokens: Int[np.ndarray, "B T"]
) -> tuple[Params, Float[np.ndarray, "L N"]]:
    """Parameters of a model that is as `model`, a standard one, but for its `attention`.

    tokens: rows of real text, all of them full; the first half to fit, the second to judge. Runs under
      `jax.set_mesh`, on one device.

    Returns:
      The parameters, and per layer and head how much of the attention moved: the total variation distance to that of
      the standard model, 0 to 1, mean over queries.
    """
    inputs = jax.jit(lambda params, tokens: bert.module(model, params).inputs(tokens))(params, tokens)
    step = jax.jit(make_update(functools.partial(_objective, attention), _OPTIM))
    converted, moved = [], []
    for layer, x in enumerate(inputs):
        standard = jax.tree.map(lambda leaf, layer=layer: leaf[layer], params["layers"]["attention"])
        fit, judge = jnp.split(x, 2)
        weights = _start(attention, standard, np.asarray(fit, np.float64).reshape(-1, model.dim))
        state = State(jnp.int32(0), weights, make_optimizer(_OPTIM).init(weights))
        for i in range(STEPS):
            state, _ = step(state, (standard, fit), jax.random.key(0), schedule(_OPTIM, STEPS)(i))
        moved.append(np.asarray(_distance(attention, standard, state.params, judge)))
        converted.append({"value": standard["value"], "output": standard["output"], **state.params})
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *converted)
    return params | {"layers": params["layers"] | {"attention": stacked}}, np.stack(moved)


def _start(attention: str, standard: Params, x: Float[np.ndarray, "R D"]) -> Params:
    """The form W P W^T that is nearest to Wq Wk^T over pairs of the tokens `x`, head by head.

    What a score adds to all keys of a query alike is nothing to the softmax, so keys count from their mean.
    """
    mean = x.mean(0)
    centred = x - mean
    root = _root(centred.T @ centred / len(x))
    kernels, pairs, biases = [], [], []
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), standard)
    for head in range(len(wide["query"]["bias"])):
        query, key, bias = wide["query"]["kernel"][:, head], wide["key"]["kernel"][:, head], wide["query"]["bias"][head]
        both = np.concatenate([query, key], axis=1)  # every W worth having is a mixture of these columns
        mixture = np.linalg.qr(root @ both, mode="r")
        left, right = np.split(mixture, 2, axis=1)
        subspace, pair = _subspace(attention, left @ right.T, query.shape[1])
        kernel = both @ np.linalg.lstsq(mixture, subspace, rcond=None)[0]
        # the query at the mean token: its score for any key must stay what it was
        wanted = root @ key @ (mean @ query + bias)
        at_mean = np.linalg.lstsq(root @ kernel @ pair.T, wanted, rcond=None)[0]
        if attention == "pairwise":  # as large as the query it takes the place of; P makes up for it
            scale = np.linalg.norm(query) / np.linalg.norm(kernel)
            kernel, pair, at_mean = kernel * scale, pair / scale**2, at_mean * scale
        kernels.append(kernel)
        pairs.append(pair)
        biases.append(at_mean - mean @ kernel)
    query = {"kernel": np.stack(kernels, axis=1), "bias": np.stack(biases)}
    weights = {"query": query} | ({"pair": np.stack(pairs)} if attention == "pairwise" else {})
    return jax.tree.map(lambda leaf: leaf.astype(np.float32), weights)


def _subspace(
    attention: str, form: Float[np.ndarray, "C C"], width: int
) -> tuple[Float[np.ndarray, "C H"], Float[np.ndarray, "H H"]]:
    """U and P of the U P U^T nearest to `form`; symmetric attention has P = I."""
    if attention == "symmetric":
        values, vectors = np.linalg.eigh((form + form.T) / 2)
        return vectors[:, -width:] * np.sqrt(np.maximum(values[-width:], 0)), np.eye(width)
    best, most = np.linalg.eigh(form @ form.T + form.T @ form)[1][:, -width:], -1.0
    vectors = best
    for _ in range(_ROUNDS):  # keeps what U^T form U holds from falling, up to a few rounds where it turns
        if (held := float(np.sum((vectors.T @ form @ vectors) ** 2))) > most:
            best, most = vectors, held
        out, back = form @ vectors, form.T @ vectors
        vectors = np.linalg.eigh(out @ out.T + back @ back.T)[1][:, -width:]
    return best, best.T @ form @ best


def _root(matrix: Float[np.ndarray, "D D"]) -> Float[np.ndarray, "D D"]:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def _attend(attention: str, weights: Params, x: Float[Array, "B T D"]) -> Float[Array, "B N T S"]:
    """The attention probabilities of a layer's `weights` on what it reads."""

    def project(name: str) -> Float[Array, "B T N H"]:
        kernel, bias = weights[name]["kernel"], weights[name]["bias"]
        return jnp.einsum("BTD,DNH->BTNH", x, kernel, out_sharding=spec("BTNH")) + bias

    q = project("query")
    match attention:
        case "standard":
            k = project("key")
        case "symmetric":
            k = q
        case "pairwise":
            k = jnp.einsum("BSNG,NHG->BSNH", q, weights["pair"], out_sharding=spec("BSNH"))
    return probabilities(q, k, None)


def _objective(attention: str, weights: Params, batch: tuple[Params, Float[Array, "B T D"]], _: Array) -> Sums:
    """Cross entropy of the converted layer's attention by the standard one's, over heads and queries."""
    standard, x = batch
    wanted, found = _attend("standard", standard, x), _attend(attention, weights, x)
    total = -jnp.sum(wanted * jnp.log(found + 1e-9))
    return {"loss": (total, jnp.float32(wanted.size // wanted.shape[-1]))}


@functools.partial(jax.jit, static_argnums=0)
def _distance(attention: str, standard: Params, weights: Params, x: Float[Array, "B T D"]) -> Float[Array, " N"]:
    apart = jnp.abs(_attend("standard", standard, x) - _attend(attention, weights, x))
    return apart.sum(-1).mean((0, 2)) / 2
