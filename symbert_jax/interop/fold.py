"""Converts a model to forms that other programs know: standard attention, or the parameters of the paper's own code.

A symmetric or pairwise model is a standard BERT whose keys are a linear function of its queries, so no program needs
custom code for it.
"""

import dataclasses

from symbert_jax.config import ModelConfig
from symbert_jax.model.attention import to_papers, to_standard
from symbert_jax.model.tree import Params


def fold(model: ModelConfig, params: Params) -> tuple[ModelConfig, Params]:
    """Returns the config and the parameters of the standard model with the same scores.

    q_t^T P q_s = q_t . (P q_s), so the key is P q: per head, Wk = Wq P^T and bk = P bq. Symmetric attention has P = I.
    """
    weights = to_standard(model, params["layers"]["attention"])
    return _describe(model, "standard"), _with_attention(params, weights)


def to_papers_form(model: ModelConfig, params: Params) -> tuple[ModelConfig, Params]:
    """Returns the model with the same scores and the parameters that the paper's code has for it."""
    attention, weights = to_papers(model, params["layers"]["attention"])
    return _describe(model, attention), _with_attention(params, weights)


def _describe(model: ModelConfig, attention: str) -> ModelConfig:
    """Returns the model with an attention that has the paper's parameters."""
    return dataclasses.replace(model, attention=attention, pairwise_form="full", query="learned", key_dim=0)


def _with_attention(params: Params, weights: Params) -> Params:
    return params | {"layers": params["layers"] | {"attention": weights}}
