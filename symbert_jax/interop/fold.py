"""Symmetric and pairwise models are standard BERTs whose key is determined: no custom code need know of them."""

import dataclasses

import numpy as np

from symbert_jax.config import ModelConfig
from symbert_jax.model.tree import Params


def fold(model: ModelConfig, params: Params) -> tuple[ModelConfig, Params]:
    """The standard model with the same scores.

    q_t^T P q_s = q_t . (P q_s), so the key is P q: per head Wk = Wq P^T and bk = P bq; symmetric is P = I.
    """
    layers = params["layers"]
    attention = dict(layers["attention"])
    pair = attention.pop("pair", None)
    match model.attention:
        case "symmetric":
            attention["key"] = attention["query"]
        case "pairwise":
            attention["key"] = {name: _apply(pair, weight) for name, weight in attention["query"].items()}
    folded = params | {"layers": layers | {"attention": attention}}
    return dataclasses.replace(model, attention="standard"), folded


def _apply(pair: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """P q for every column of queries [L, ..., N, G]; in float64, because the sum over G is a rounding of its own."""
    key = np.einsum("L...NG,LNHG->L...NH", weight, pair, dtype=np.float64)
    return np.ascontiguousarray(key, np.float32)
