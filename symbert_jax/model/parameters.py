"""Parameters of a module: their letters, their sizes, their initial values, and how a forward pass gathers them."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec, reshard
from jax.typing import DTypeLike
from jaxtyping import Array

from symbert_jax.batch import Array as AnyArray
from symbert_jax.config import ModelConfig
from symbert_jax.sharding import spec

Init = Callable[..., Array]  # (key, shape, dtype) -> values
Sizes = Mapping[str, int]

TOKEN_TYPES = 2

normal = jax.nn.initializers.normal  # as in the paper's code, the distribution is not truncated
zeros = jax.nn.initializers.zeros
ones = jax.nn.initializers.ones


def sizes(config: ModelConfig) -> Sizes:
    """Returns the size of each dimension, by its letter.

    E is D again and G is Q again, so that no array has the same letter twice. K is the number of token types, and J the
    rank of P in pairwise attention.
    """
    head = config.dim // config.heads
    query = config.key_dim or head
    return {
        "T": config.length,
        "D": config.dim,
        "E": config.dim,
        "N": config.heads,
        "H": head,
        "Q": query,
        "G": query,
        "J": config.pairwise_rank,
        "F": config.mlp_dim,
        "V": config.vocab_size,
        "L": config.layers,
        "K": TOKEN_TYPES,
    }


def parameter(init: Init, dims: str, sizes: Sizes, rngs: nnx.Rngs) -> nnx.Param:
    """Creates a float32 parameter whose dimensions have the letters `dims`, by which `sharding.py` shards it."""
    return nnx.Param(init(rngs(), tuple(sizes[dim] for dim in dims), jnp.float32), dims=dims)


def gathered(weight: nnx.Param, dtype: DTypeLike) -> Array:
    """Returns the parameter for use in a forward pass: cast first, then gathered where FSDP shards it."""
    return reshard(weight[...].astype(dtype), spec(weight.dims))


def gathered_with_deferred_psum(weight: AnyArray, dims: str) -> Array:
    """Like `gathered`, for an array that is already cast, and only for operands of matrix products and look-ups.

    Each device accumulates the gradients of all uses locally; they are reduced over `data` once, to where the
    parameter is stored (with FSDP by a reduce-scatter).
    """
    return reshard(weight, PartitionSpec(*spec(dims), reduced={"data"}))
