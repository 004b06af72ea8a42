"""Local layers, in which a token attends to the tokens around it, and global layers, in which it attends to all.

A window is the number of tokens that a token attends to besides itself, half of them on each side; 0 stands for all.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from symbert_jax.config import ModelConfig


def pattern(config: ModelConfig) -> tuple[int, ...]:
    """Returns the windows of the first layers, which repeat until the last layer. The first layer is global."""
    return (0,) + (config.window,) * (config.global_every - 1) if config.window else (0,)


def layer_windows(config: ModelConfig) -> list[int]:
    """Returns the window of each layer."""
    repeated = pattern(config)
    return [repeated[layer % len(repeated)] for layer in range(config.layers)]


def in_window(window: int, num_queries: int, num_keys: int) -> Bool[Array, "T S"]:
    """Returns which of the keys are in the window of each of the first `num_queries` tokens."""
    query = jax.lax.broadcasted_iota(jnp.int32, (num_queries, num_keys), 0)
    key = jax.lax.broadcasted_iota(jnp.int32, (num_queries, num_keys), 1)
    return jnp.abs(query - key) <= window // 2


def num_pairs(window: int, length: int) -> int:
    """Returns the number of pairs of a token and a token that it attends to, in a row of `length` tokens."""
    side = min(window // 2, length - 1) if window else length - 1
    return length * (2 * side + 1) - side * (side + 1)
