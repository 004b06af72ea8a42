"""The scores of a tile, which of its tokens see each other, and its dropout."""

import math
import struct
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Bool, Float, Int, UInt32

from symbert_jax.model import random_bits
from symbert_jax.model.triton.programs import Ref

# q . k of a token that is not visible; finite, so that no difference is NaN. A power of 2, so that its product with a
# scale is exact: in a tile in which a query sees no token, a fused multiply-add then gives the 0 of two operations.
MASKED = -(2.0**100)


def multiply(
    x: Float[Array, "m Q"],
    y: Float[Array, "n Q"],
    x_segments: Int[Array, " m"] | None,
    y_segments: Int[Array, " n"] | None,
) -> Float[Array, "m n"]:
    """Returns x . y for tokens of the same segment, and `MASKED` for others."""
    products = triton.dot(x, y.T)
    if x_segments is None or y_segments is None:
        return products
    return jnp.where(x_segments[:, None] == y_segments[None, :], products, MASKED)


def reached_tiles(tokens: pl.Slice, length: int, size: int, window: int) -> tuple[Any, Any]:
    """Returns the first tile of `size` tokens that the windows of these tokens reach, and the one after the last.

    length: of the row.
    """
    if not window:
        return 0, length // size
    side = window // 2
    first, end = jnp.maximum(tokens.start - side, 0), jnp.minimum(tokens.start + tokens.size + side, length)
    return first // size, (end + size - 1) // size


def mask_window(
    products: Float[Array, "m n"], x_tokens: pl.Slice, y_tokens: pl.Slice, window: int
) -> Float[Array, "m n"]:
    """Returns `MASKED` for pairs of tokens that are not in each other's window."""
    if not window:
        return products
    x, y = (jnp.int32(each.start) + jax.lax.iota(jnp.int32, int(each.size)) for each in (x_tokens, y_tokens))
    return jnp.where(jnp.abs(x[:, None] - y[None, :]) <= window // 2, products, MASKED)


def exp2(x: Float[Array, "m n"], scale: float, offset: Float[Array, "..."], interpret: bool) -> Float[Array, "m n"]:
    """Returns 2 ** (scale x + offset), for an offset that broadcasts.

    On a GPU, these are two instructions instead of six: Triton would not fuse the product and the sum, and would add
    three instructions for results below 2 ** -126, which are 0 here.
    """
    if interpret:
        return jnp.exp2(scale * x + offset)
    constant = struct.pack(">f", scale).hex().upper()
    (y,) = triton.elementwise_inline_asm(
        f"{{ .reg .f32 t; fma.rn.f32 t, $1, 0f{constant}, $2; ex2.approx.ftz.f32 $0, t; }}",
        args=[x, jnp.broadcast_to(offset, x.shape)],
        constraints="=f,f,f",
        pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(x.shape, x.dtype)],
    )
    return y


def find_query_segments(segments_ref: Ref | None, queries: pl.Slice) -> Int[Array, " T"] | None:
    """Returns the segments that these queries see; padding, 0, sees segment 1."""
    return None if segments_ref is None else jnp.maximum(segments_ref[queries], 1)


def find_key_segments(segments_ref: Ref | None, keys: pl.Slice) -> Int[Array, " S"] | None:
    return None if segments_ref is None else segments_ref[keys]


def positions_of(tokens: pl.Slice) -> UInt32[Array, " T"]:
    return jnp.asarray(tokens.start, jnp.uint32) + jax.lax.iota(jnp.uint32, int(tokens.size))


def draw_kept(
    states_ref: Ref | None,
    queries: UInt32[Array, "..."],
    keys: UInt32[Array, "..."],
    num_keys: int,
    dropout_rate: float,
) -> Bool[Array, "..."] | None:
    """Returns which probabilities dropout keeps, for positions that broadcast; without dropout, None.

    num_keys: the number of keys in a whole row.
    """
    if states_ref is None:
        return None
    first, step = states_ref[0], states_ref[1]
    rows = first + queries * (step * np.uint32(random_bits.states_per_row(num_keys)))
    return random_bits.is_kept(random_bits.draw(rows, step, keys), dropout_rate)


def drop(x: Float[Array, "..."], kept: Bool[Array, "..."] | None) -> Float[Array, "..."]:
    """Returns 0 where dropout keeps nothing, as a product: a selection costs more before a conversion to bfloat16."""
    return x if kept is None else x * kept.astype(x.dtype)


def find_score_scale(q_ref: Ref) -> float:
    """Returns the factor from q . k to the logarithm of base 2 of the softmax's numerator."""
    return q_ref.shape[1] ** -0.5 * math.log2(math.e)


def find_dropout_scale(states: Any, dropout_rate: float) -> float:
    return 1.0 if states is None else 1 / random_bits.kept_fraction(dropout_rate)
