"""The forward pass."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array

from symbert_jax.model.triton.programs import Ref, call, numbers_of, rows_of, segments_of, states_of, type_of
from symbert_jax.model.triton.tiles import (
    MASKED,
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


def forward(
    q: Array,
    k: Array,
    v: Array,
    segments: Array | None,
    states: Array | None,
    dropout_rate: float,
    window: int,
    tiling: Tiling,
    interpret: bool,
) -> tuple[Array, tuple[Array | None, ...]]:
    """Returns the output of `attention`, and the arrays that `backward` needs."""
    length, heads = q.shape[1:3]
    tile = tiling.forward.fit(length)
    options: dict[str, Any] = {"dropout_rate": dropout_rate, "window": window, "interpret": interpret}
    log_sums_type = jax.ShapeDtypeStruct((len(q), heads, length), jnp.float32)
    out, log_sums = call(
        functools.partial(forward_kernel, **options, size=tile.keys),
        (
            rows_of(q, tile.queries),
            rows_of(k),
            rows_of(v),
            segments_of(segments),
            states_of(states),
        ),
        (rows_of(type_of(v), tile.queries), numbers_of(log_sums_type, tile.queries)),
        grid=(length // tile.queries, heads, len(q)),
        tile=tile,
        interpret=interpret,
    )
    return out, (q, k, v, segments, states, out, log_sums)


def forward_kernel(
    q_ref: Ref,
    k_ref: Ref,
    v_ref: Ref,
    segments_ref: Ref | None,
    states_ref: Ref | None,
    out_ref: Ref,
    log_sums_ref: Ref,
    *,
    dropout_rate: float,
    window: int,
    size: int,
    interpret: bool,
) -> None:
    """Computes the output of a tile of queries over tiles of `size` keys, and the logarithms of the denominators."""
    num_queries, num_keys, scale = len(q_ref), len(k_ref), find_score_scale(q_ref)
    queries = pl.Slice(pl.program_id(0) * num_queries, num_queries)
    q, query_segments = q_ref[...], find_query_segments(segments_ref, queries)

    def step(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        out, total, previous = carry
        keys = pl.Slice(i * size, size)
        products = multiply(q, k_ref[keys, :], query_segments, find_key_segments(segments_ref, keys))
        products = mask_window(products, queries, keys, window)
        largest = jnp.maximum(previous, products.max(axis=1))
        weights, shrinkage = (
            exp2(products, scale, -scale * largest[:, None], interpret),
            jnp.exp2(scale * (previous - largest)),
        )
        total = total * shrinkage + weights.sum(axis=1)
        kept = draw_kept(
            states_ref, positions_of(queries)[:, None], positions_of(keys)[None, :], num_keys, dropout_rate
        )
        weights = drop(weights, kept).astype(v_ref.dtype)
        return out * shrinkage[:, None] + triton.dot(weights, v_ref[keys, :]), total, largest

    zeros = jnp.zeros(num_queries, jnp.float32)
    start = jnp.zeros(out_ref.shape, jnp.float32), zeros, zeros - jnp.inf
    out, total, largest = jax.lax.fori_loop(*reached_tiles(queries, num_keys, size, window), step, start)
    out *= (find_dropout_scale(states_ref, dropout_rate) / total)[:, None]
    out_ref[...] = out.astype(out_ref.dtype)
    # A query that sees no token, in a row of padding alone, gets the mean of the values and has no gradients.
    log_sums_ref[...] = jnp.where(largest > MASKED, scale * largest + jnp.log2(total), jnp.inf)
