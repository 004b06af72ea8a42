"""Converts a model to forms that other programs know: standard attention, or the parameters of the paper's own code.

A symmetric or pairwise model is a standard BERT whose keys are a linear function of its queries, so no program needs
custom code for it.
"""

import dataclasses

from symbert_jax.config import ModelConfig
from symbert_jax.model.attention import find_variant
from symbert_jax.model.tree import Params


def fold(model: ModelConfig, params: Params) -> tuple[ModelConfig, Params]:
    """Returns the config and the parameters of the standard model with the same scores.

    q_t^T P q_s = q_t . (P q_s), so the key is P q: per head, Wk = Wq P^T and bk = P bq. Symmetric attention has P = I.
    """
    weights = find_variant(model).as_standard(params["layers"]["attention"])
    return dataclasses.replace(model, attention="standard"), _with_attention(params, weights)


def to_papers_form(model: ModelConfig, params: Params) -> tuple[ModelConfig, Params]:
    """Returns the config and the parameters of the same model in the form of the paper's code: P is a full matrix."""
    weights = find_variant(model).as_papers(params["layers"]["attention"])
    return dataclasses.replace(model, pairwise_form="full"), _with_attention(params, weights)


def _with_attention(params: Params, weights: Params) -> Params:
    return params | {"layers": params["layers"] | {"attention": weights}}
