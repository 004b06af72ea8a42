"""The scores of a layer in other forms: as those of standard attention, as in the paper's code, and their symmetry."""

import math

import jax
import numpy as np
from jaxtyping import Array, Float

from symbert_jax.config import ModelConfig
from symbert_jax.errors import UserError
from symbert_jax.model.attention.variants import find_variant
from symbert_jax.model.parameters import sizes
from symbert_jax.model.tree import Params


def to_standard(config: ModelConfig, weights: Params) -> Params:
    """Returns the float32 weights [L, ...] of the standard attention, with keys of the head width, of the same scores.

    The products are computed in float64, because sums in float32 would add rounding errors. Narrower queries and keys
    are padded with zeros; the queries are scaled, because the scores are then divided by sqrt(H) instead of sqrt(Q).

    Raises:
      UserError: the queries and keys are wider than a head, or have another width than a head and are rotated.
    """
    query_dim, head_dim = sizes(config)["Q"], sizes(config)["H"]
    if query_dim != head_dim and config.positions == "rope":
        wanted = f"0: the rotations of a head have its width, {head_dim}"
        raise UserError("model.key_dim", str(query_dim), wanted)
    if query_dim > head_dim:
        wanted = f"at most {head_dim}, the width of a head: BERT has no wider keys"
        raise UserError("model.key_dim", str(query_dim), wanted)
    exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), weights)
    standard = find_variant(config).as_standard(exact)
    for name, scale in (("query", math.sqrt(head_dim / query_dim)), ("key", 1.0)):
        standard = {**standard, name: {each: scale * _pad(leaf, head_dim) for each, leaf in standard[name].items()}}
    return jax.tree.map(lambda leaf: np.ascontiguousarray(leaf, np.float32), standard)


def to_papers(config: ModelConfig, weights: Params) -> tuple[str, Params]:
    """Returns the name of an attention of the paper's code, and its weights [L, ...] with the same scores.

    Raises:
      UserError: the queries and keys do not have the width of a head.
    """
    if sizes(config)["Q"] != sizes(config)["H"]:
        wanted = f"0: the paper's code has keys of the width of a head, {sizes(config)['H']}"
        raise UserError("model.key_dim", str(config.key_dim), wanted, "--format=huggingface takes narrower keys")
    variant = find_variant(config)
    return variant.papers_name, variant.as_papers(weights)


def symmetry(weights: Params, config: ModelConfig) -> Float[Array, "*layers N"]:
    """Returns the symmetry score |(M + M^T) / 2|^2 / |M|^2 of each head, where x_t^T M x_s is its score without biases
    and rotations.

    It is 1 if M is symmetric, 0 if it is antisymmetric, and about 0.5 for random matrices (Saponati et al., 2025). The
    weights are whole on every device, and those of a variant that `has_scores`.
    """
    standard = find_variant(config).as_standard(weights)
    query, key = (standard[name]["kernel"].swapaxes(-2, -3) for name in ("query", "key"))  # [..., N, D, Q]
    # M = Wq Wk^T has D x D entries; the products of its factors have Q x Q.
    cross = key.swapaxes(-1, -2) @ query
    squared = ((query.swapaxes(-1, -2) @ query) * (key.swapaxes(-1, -2) @ key)).sum((-1, -2))
    return (1 + (cross * cross.swapaxes(-1, -2)).sum((-1, -2)) / squared) / 2


def _pad(weight: Float[np.ndarray, "..."], width: int) -> Float[np.ndarray, "..."]:
    """Appends zeros to the last dimension."""
    return np.pad(weight, [(0, 0)] * (weight.ndim - 1) + [(0, width - weight.shape[-1])])
