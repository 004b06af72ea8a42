"""The backward pass: a kernel for the gradients of keys and values, and one for the gradient of the queries."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array

from symbert_jax.model.triton.programs import Ref, call, numbers_of, rows_of, segments_of, states_of, type_of
from symbert_jax.model.triton.tiles import (
    draw_kept,
    drop,
    exp2,
    find_dropout_scale,
    find_key_segments,
    find_query_segments,
    find_score_scale,
    mask_window,
    multiply,
    positions_of,
    reached_tiles,
)
from symbert_jax.model.triton.tiling import Tiling


def backward(
    dropout_rate: float, window: int, tiling: Tiling, interpret: bool, residuals: tuple[Any, ...], dout: Array
) -> tuple[Array | None, ...]:
    """Returns the gradients of q, k and v, and None for segments and states."""
    q, k, v, segments, states, out, log_sums = residuals
    length, heads = q.shape[1:3]
    # The gradient of the probabilities times the probabilities, summed over the keys, is out . dout. The kernels leave
    # the scale of dropout out until they have added all tiles, and so these sums are divided by it.
    dots = jnp.einsum("BTNH,BTNH->BNT", out, dout, preferred_element_type=jnp.float32)
    dots /= find_dropout_scale(states, dropout_rate)

    tile = tiling.keys.fit(length)
    options: dict[str, Any] = {"dropout_rate": dropout_rate, "window": window, "interpret": interpret}
    dk, dv = call(
        functools.partial(keys_kernel, **options, size=tile.queries),
        (
            *(
                rows_of(q),
                rows_of(k, tile.keys),
                rows_of(v, tile.keys),
                segments_of(segments),
                states_of(states),
            ),
            *(rows_of(dout), numbers_of(log_sums), numbers_of(dots)),
        ),
        (rows_of(type_of(k), tile.keys), rows_of(type_of(v), tile.keys)),
        grid=(length // tile.keys, heads, len(q)),
        tile=tile,
        interpret=interpret,
    )
    tile = tiling.queries.fit(length)
    (dq,) = call(
        functools.partial(queries_kernel, **options, size=tile.keys),
        (
            *(
                rows_of(q, tile.queries),
                rows_of(k),
                rows_of(v),
                segments_of(segments),
                states_of(states),
            ),
            *(
                rows_of(dout, tile.queries),
                numbers_of(log_sums, tile.queries),
                numbers_of(dots, tile.queries),
            ),
        ),
        (rows_of(type_of(q), tile.queries),),
        grid=(length // tile.queries, heads, len(q)),
        tile=tile,
        interpret=interpret,
    )
    return dq, dk, dv, None, None


def keys_kernel(
    q_ref: Ref,
    k_ref: Ref,
    v_ref: Ref,
    segments_ref: Ref | None,
    states_ref: Ref | None,
    dout_ref: Ref,
    log_sums_ref: Ref,
    dots_ref: Ref,
    dk_ref: Ref,
    dv_ref: Ref,
    *,
    dropout_rate: float,
    window: int,
    size: int,
    interpret: bool,
) -> None:
    """Computes the gradients of a tile of keys and values over tiles of `size` queries.

    The scores are transposed, [keys, queries], so that they are the left operand of the products for both gradients,
    which a GPU takes from registers.
    """
    num_queries, num_keys, scale = len(q_ref), len(k_ref), find_score_scale(q_ref)
    keys = pl.Slice(pl.program_id(0) * num_keys, num_keys)
    k, v, key_segments = k_ref[...], v_ref[...], find_key_segments(segments_ref, keys)

    def step(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        dk, dv = carry
        queries = pl.Slice(i * size, size)
        q, dout = q_ref[queries, :], dout_ref[queries, :]
        products = multiply(k, q, key_segments, find_query_segments(segments_ref, queries))
        products = mask_window(products, keys, queries, window)
        weights = exp2(products, scale, -log_sums_ref[queries][None, :], interpret)
        kept = draw_kept(
            states_ref, positions_of(queries)[None, :], positions_of(keys)[:, None], num_queries, dropout_rate
        )
        dv += triton.dot(drop(weights, kept).astype(dout.dtype), dout)
        dweights = drop(triton.dot(v, dout.T), kept)
        dscores = weights * (dweights - dots_ref[queries][None, :])
        return dk + triton.dot(dscores.astype(q.dtype), q), dv

    start = jnp.zeros(dk_ref.shape, jnp.float32), jnp.zeros(dv_ref.shape, jnp.float32)
    dk, dv = jax.lax.fori_loop(*reached_tiles(keys, num_queries, size, window), step, start)
    dropout_scale = find_dropout_scale(states_ref, dropout_rate)
    dk_ref[...] = (dk * (dropout_scale * k_ref.shape[1] ** -0.5)).astype(dk_ref.dtype)
    dv_ref[...] = (dv * dropout_scale).astype(dv_ref.dtype)


def queries_kernel(
    q_ref: Ref,
    k_ref: Ref,
    v_ref: Ref,
    segments_ref: Ref | None,
    states_ref: Ref | None,
    dout_ref: Ref,
    log_sums_ref: Ref,
    dots_ref: Ref,
    dq_ref: Ref,
    *,
    dropout_rate: float,
    window: int,
    size: int,
    interpret: bool,
) -> None:
    """Computes the gradient of a tile of queries over tiles of `size` keys."""
    num_queries, num_keys, scale = len(q_ref), len(k_ref), find_score_scale(q_ref)
    queries = pl.Slice(pl.program_id(0) * num_queries, num_queries)
    q, dout, query_segments = q_ref[...], dout_ref[...], find_query_segments(segments_ref, queries)
    log_sums, dots = log_sums_ref[...], dots_ref[...]

    def step(i: Array, dq: Array) -> Array:
        keys = pl.Slice(i * size, size)
        k, v = k_ref[keys, :], v_ref[keys, :]
        products = multiply(q, k, query_segments, find_key_segments(segments_ref, keys))
        products = mask_window(products, queries, keys, window)
        weights = exp2(products, scale, -log_sums[:, None], interpret)
        kept = draw_kept(
            states_ref, positions_of(queries)[:, None], positions_of(keys)[None, :], num_keys, dropout_rate
        )
        dweights = triton.dot(dout, v.T)
        if kept is not None:
            dweights = jnp.where(kept, dweights, 0.0)  # faster here than a product, which takes more registers
        dscores = weights * (dweights - dots[:, None])
        return dq + triton.dot(dscores.astype(k.dtype), k)

    dq = jax.lax.fori_loop(*reached_tiles(queries, num_keys, size, window), step, jnp.zeros(dq_ref.shape, jnp.float32))
    dropout_scale = find_dropout_scale(states_ref, dropout_rate)
    dq_ref[...] = (dq * (dropout_scale * q_ref.shape[1] ** -0.5)).astype(dq_ref.dtype)
