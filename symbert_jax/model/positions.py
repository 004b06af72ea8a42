"""Rotary position embeddings (Su et al., 2021): queries and keys are rotated by angles proportional to their positions.

The entries i and i + Q / 2 of a vector are a pair, which is rotated in its plane by the angle p theta^(-2 i / Q) at
position p. The score of two rotated vectors depends on the difference of their positions alone. It is the same for
positions in the row and in a document, so the position ids of documents are not needed.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from symbert_jax.config import ModelConfig
from symbert_jax.model.parameters import sizes

Rotation = tuple[Float[Array, "S half"], Float[Array, "S half"]]  # cosine and sine of each position and pair


def rotation(config: ModelConfig, window: int, length: int) -> Rotation | None:
    """Returns the rotation of the first `length` positions in layers with this window; None if there is none."""
    if config.positions != "rope":
        return None
    theta, width = config.rope_theta_local if window else config.rope_theta, sizes(config)["Q"]
    frequencies = 1.0 / theta ** (jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    angles = jnp.arange(length, dtype=jnp.float32)[:, None] * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Float[Array, "B T N Q"], rotation: Rotation) -> Float[Array, "B T N Q"]:
    """Rotates the vectors of the first T positions. The arithmetic is in float32."""
    cosine, sine = (each[: x.shape[1], None] for each in rotation)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = (first * cosine - second * sine, second * cosine + first * sine)
    return jnp.concatenate(rotated, axis=-1).astype(x.dtype)
