"""The forward pass of every architecture in plain numpy, in float64, token by token where this is clearest."""

import numpy as np
from scipy.special import erf

from symbert_jax.config import ModelConfig


def logits(model: ModelConfig, params, tokens: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Returns the logits of all tokens, given float64 parameters."""
    embeddings = params["embeddings"]
    stream = embeddings["word"][tokens]
    if model.positions == "learned":
        stream = stream + embeddings["position"][: tokens.shape[1]] + embeddings["token_type"][0]
    x = stream = norm(model, embeddings["norm"], stream)
    for layer in range(model.layers):
        weights = take(params["layers"], layer)
        window = model.window if layer % model.global_every else 0
        stream = stream + attention(model, weights["attention"], x, segments, window)
        x = norm(model, weights["attention_norm"], stream)
        if model.norm == "post":
            stream = x
        stream = stream + mlp(model, weights["mlp"], x)
        x = norm(model, weights["mlp_norm"], stream)
        if model.norm == "post":
            stream = x
    head = params["head"]
    return norm(model, head["norm"], gelu(dense(head["dense"], x))) @ embeddings["word"].T + head["bias"]


def take(tree, layer: int):
    return {key: take(each, layer) for key, each in tree.items()} if isinstance(tree, dict) else tree[layer]


def dense(weights, x: np.ndarray) -> np.ndarray:
    return x @ weights["kernel"] + weights.get("bias", 0)


def norm(model: ModelConfig, weights, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    y = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + model.norm_eps)
    return y * weights["scale"] + weights.get("bias", 0)


def gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + erf(x / np.sqrt(2))) / 2


def mlp(model: ModelConfig, weights, x: np.ndarray) -> np.ndarray:
    inner = gelu(dense(weights["up"], x))
    return dense(weights["down"], inner * dense(weights["gate"], x) if model.mlp == "geglu" else inner)


def attention(model: ModelConfig, weights, x: np.ndarray, segments: np.ndarray, window: int) -> np.ndarray:
    mixed = np.zeros((*x.shape[:2], model.heads, model.dim // model.heads))
    for row, head in np.ndindex(len(x), model.heads):
        one = {name: of_head(name, each, head) for name, each in weights.items()}
        q, k = query_key(model, one, x[row], head)
        v = dense(one["value"], x[row])
        base = model.rope_theta_local if window else model.rope_theta
        for t in range(x.shape[1]):
            seen = segments[row] == max(segments[row, t], 1)
            if window:
                seen = seen & (np.abs(np.arange(x.shape[1]) - t) <= window / 2)
            if not seen.any():
                continue  # what padding computes is not defined
            if model.positions == "rope":
                scores = np.array([rotate(q[t], t, base) @ rotate(k[s], s, base) for s in np.flatnonzero(seen)])
            else:
                scores = k[seen] @ q[t]
            p = np.exp(scores / np.sqrt(q.shape[1]) - np.max(scores / np.sqrt(q.shape[1])))
            mixed[row, t, head] = p / p.sum() @ v[seen]
    output = weights["output"]
    return np.einsum("BTNH,NHD->BTD", mixed, output["kernel"]) + output.get("bias", 0)


def of_head(name: str, weights, head: int):
    """Returns the weights of one head, except for the output, which belongs to all."""
    if not isinstance(weights, dict):
        return weights[head]
    axes = {"kernel": 1, "bias": 0}
    return {} if name == "output" else {key: each.take(head, axes[key]) for key, each in weights.items()}


def query_key(model: ModelConfig, weights, x: np.ndarray, head: int) -> tuple[np.ndarray, np.ndarray]:
    width = model.dim // model.heads
    if model.attention == "uniform":
        return np.zeros_like(x), np.zeros_like(x)
    q = dense(weights["query"], x) if "query" in weights else x[:, head * width : (head + 1) * width]
    if model.attention == "standard":
        return q, dense(weights["key"], x)
    pair = np.eye(q.shape[1])
    if "pair_left" in weights:
        pair = pair + weights["pair_left"] @ weights["pair_right"].T
    elif "pair" in weights:
        pair = weights["pair"] if weights["pair"].ndim == 2 else np.diag(weights["pair"])
    return q, q @ pair.T


def rotate(vector: np.ndarray, position: int, base: float) -> np.ndarray:
    """Rotates the pairs of a vector as complex numbers, of which its halves are the parts."""
    real, imaginary = np.split(vector, 2)
    turned = (real + 1j * imaginary) * np.exp(1j * position * base ** (-np.arange(len(real)) / len(real)))
    return np.concatenate([turned.real, turned.imag])
