"""Attention for NVIDIA GPUs with the dropout of `random_bits`: flash attention in Pallas, which Triton compiles.

The method is FlashAttention-2 (Dao, 2023). In the forward pass, a program holds a tile of queries and reads the keys
tile by tile, so that no score is written to memory. It keeps the output and one number per query, the logarithm of the
softmax's denominator. From these, the backward pass computes the probabilities again: one kernel for the gradients of
keys and values, whose programs hold a tile of keys, and one for the gradient of the queries.

The mask of dropout is not written to memory either. Every program draws the bits of its tiles from their positions in
the global array B N T S, so the mask is that of `random_bits.keep` on every mesh.

Logarithms and exponentials have base 2, which a GPU computes faster.
"""

import dataclasses
import functools
import math
import struct
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Bool, Float, Int, UInt32

from symbert_jax.model import random_bits

# q . k of a token that is not visible; finite, so that no difference is NaN. A power of 2, so that its product with a
# scale is exact: in a tile in which a query sees no token, a fused multiply-add then gives the 0 of two operations.
MASKED = -(2.0**100)

Ref = Any  # an array in the memory of the GPU
Operand = tuple[Any, pl.BlockSpec | None]  # an array, or for an output its shape, and the part that a program gets


@dataclasses.dataclass(frozen=True)
class Tile:
    """The numbers of queries and of keys in a tile, of the warps of a program and of the stages of its pipeline."""

    queries: int
    keys: int
    warps: int = 4
    stages: int = 3

    def fit(self, length: int) -> "Tile":
        """Returns the largest tile, at most this one, that divides a row of `length` tokens."""
        return dataclasses.replace(self, queries=math.gcd(self.queries, length), keys=math.gcd(self.keys, length))


@dataclasses.dataclass(frozen=True)
class Tiling:
    """The tiles of the three kernels."""

    forward: Tile
    keys: Tile  # of the gradients of keys and values
    queries: Tile  # of the gradient of the queries


# Tiles by the largest number of bytes in the vector of a token. They fit in the registers of an H100 and in 99 KB of
# shared memory, as in a GeForce RTX 30. Most of the work are instructions for single probabilities. So the tiles are
# small: two or three programs share a multiprocessor, and one computes while another waits for its matrix product.
TILINGS = {
    128: Tiling(Tile(64, 64), keys=Tile(64, 64), queries=Tile(64, 64)),
    256: Tiling(Tile(64, 32), keys=Tile(queries=32, keys=64), queries=Tile(64, 32)),
    512: Tiling(*[Tile(32, 32, stages=2)] * 3),
}


def choose_tiling(width: int, dtype: jnp.dtype) -> Tiling:
    """Returns tiles for heads of this width, at most 128."""
    return TILINGS[min(size for size in TILINGS if width * dtype.itemsize <= size)]


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7, 8))
def attention(
    q: Float[Array, "B T N Q"],
    k: Float[Array, "B T N Q"],
    v: Float[Array, "B T N H"],
    segments: Int[Array, "B T"] | None,
    states: UInt32[Array, "B N 2"] | None,
    dropout_rate: float,
    window: int,
    tiling: Tiling,
    interpret: bool,
) -> Float[Array, "B T N H"]:
    """Computes softmax(q . k / sqrt(Q)) v; the widths Q and H are powers of two, at least 16, T is a multiple of 16.

    states: for each head, the counter of the first state of `random_bits` and the step to the next counter; None means
      no dropout.
    window: of `windows`. A program leaves out the tiles that are outside the windows of all its tokens.
    interpret: runs the kernel without a GPU, slowly.
    """
    return _forward(q, k, v, segments, states, dropout_rate, window, tiling, interpret)[0]


def _forward(
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
    length, heads = q.shape[1:3]
    tile = tiling.forward.fit(length)
    options: dict[str, Any] = {"dropout_rate": dropout_rate, "window": window, "interpret": interpret}
    log_sums_type = jax.ShapeDtypeStruct((len(q), heads, length), jnp.float32)
    out, log_sums = _call(
        functools.partial(_forward_kernel, **options, size=tile.keys),
        (_rows(q, tile.queries), _rows(k), _rows(v), _segments(segments), _states(states)),
        (_rows(_type(v), tile.queries), _numbers(log_sums_type, tile.queries)),
        grid=(length // tile.queries, heads, len(q)),
        tile=tile,
        interpret=interpret,
    )
    return out, (q, k, v, segments, states, out, log_sums)


def _backward(
    dropout_rate: float, window: int, tiling: Tiling, interpret: bool, residuals: tuple[Any, ...], dout: Array
) -> tuple[Array | None, ...]:
    q, k, v, segments, states, out, log_sums = residuals
    length, heads = q.shape[1:3]
    # The gradient of the probabilities times the probabilities, summed over the keys, is out . dout. The kernels leave
    # the scale of dropout out until they have added all tiles, and so these sums are divided by it.
    dots = jnp.einsum("BTNH,BTNH->BNT", out, dout, preferred_element_type=jnp.float32)
    dots /= _dropout_scale(states, dropout_rate)

    tile = tiling.keys.fit(length)
    options: dict[str, Any] = {"dropout_rate": dropout_rate, "window": window, "interpret": interpret}
    dk, dv = _call(
        functools.partial(_keys_kernel, **options, size=tile.queries),
        (
            *(_rows(q), _rows(k, tile.keys), _rows(v, tile.keys), _segments(segments), _states(states)),
            *(_rows(dout), _numbers(log_sums), _numbers(dots)),
        ),
        (_rows(_type(k), tile.keys), _rows(_type(v), tile.keys)),
        grid=(length // tile.keys, heads, len(q)),
        tile=tile,
        interpret=interpret,
    )
    tile = tiling.queries.fit(length)
    (dq,) = _call(
        functools.partial(_queries_kernel, **options, size=tile.keys),
        (
            *(_rows(q, tile.queries), _rows(k), _rows(v), _segments(segments), _states(states)),
            *(_rows(dout, tile.queries), _numbers(log_sums, tile.queries), _numbers(dots, tile.queries)),
        ),
        (_rows(_type(q), tile.queries),),
        grid=(length // tile.queries, heads, len(q)),
        tile=tile,
        interpret=interpret,
    )
    return dq, dk, dv, None, None


attention.defvjp(_forward, _backward)


def _call(
    kernel: Callable[..., None],
    inputs: tuple[Operand, ...],
    outputs: tuple[Operand, ...],
    *,
    grid: tuple[int, int, int],
    tile: Tile,
    interpret: bool,
) -> Any:
    """Runs a program for each tile of each head of each row; neighbors share a head, whose arrays stay in the cache."""
    arrays, in_specs = zip(*inputs, strict=True)
    out_types, out_specs = zip(*outputs, strict=True)
    return pl.pallas_call(
        kernel,
        out_types,
        grid=grid,
        in_specs=in_specs,
        out_specs=out_specs,
        compiler_params=triton.CompilerParams(num_warps=tile.warps, num_stages=tile.stages),
        interpret=interpret,
    )(*arrays)


def _type(x: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _rows(x: Any, size: int | None = None) -> Operand:
    """Gives a program the vectors of a head, [T, H], or its tile of `size` of them."""
    shape = (None, size or x.shape[1], None, x.shape[3])
    return x, pl.BlockSpec(shape, lambda tile, head, row: (row, tile if size else 0, head, 0))


def _numbers(x: Any, size: int | None = None) -> Operand:
    """Gives a program the numbers of a head, one per token, or its tile of `size` of them."""
    return x, pl.BlockSpec((None, None, size or x.shape[2]), lambda tile, head, row: (row, head, tile if size else 0))


def _segments(x: Array | None) -> Operand:
    return x, None if x is None else pl.BlockSpec((None, x.shape[1]), lambda tile, head, row: (row, 0))


def _states(x: Array | None) -> Operand:
    return x, None if x is None else pl.BlockSpec((None, None, 2), lambda tile, head, row: (row, head, 0))


def _forward_kernel(
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
    num_queries, num_keys, scale = len(q_ref), len(k_ref), _score_scale(q_ref)
    queries = pl.Slice(pl.program_id(0) * num_queries, num_queries)
    q, query_segments = q_ref[...], _query_segments(segments_ref, queries)

    def step(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        out, total, previous = carry
        keys = pl.Slice(i * size, size)
        products = _products(q, k_ref[keys, :], query_segments, _key_segments(segments_ref, keys))
        products = _in_window(products, queries, keys, window)
        largest = jnp.maximum(previous, products.max(axis=1))
        weights, shrinkage = (
            _exp2(products, scale, -scale * largest[:, None], interpret),
            jnp.exp2(scale * (previous - largest)),
        )
        total = total * shrinkage + weights.sum(axis=1)
        kept = _kept(states_ref, _positions(queries)[:, None], _positions(keys)[None, :], num_keys, dropout_rate)
        weights = _drop(weights, kept).astype(v_ref.dtype)
        return out * shrinkage[:, None] + triton.dot(weights, v_ref[keys, :]), total, largest

    zeros = jnp.zeros(num_queries, jnp.float32)
    start = jnp.zeros(out_ref.shape, jnp.float32), zeros, zeros - jnp.inf
    out, total, largest = jax.lax.fori_loop(*_tiles(queries, num_keys, size, window), step, start)
    out *= (_dropout_scale(states_ref, dropout_rate) / total)[:, None]
    out_ref[...] = out.astype(out_ref.dtype)
    # A query that sees no token, in a row of padding alone, gets the mean of the values and has no gradients.
    log_sums_ref[...] = jnp.where(largest > MASKED, scale * largest + jnp.log2(total), jnp.inf)


def _keys_kernel(
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
    num_queries, num_keys, scale = len(q_ref), len(k_ref), _score_scale(q_ref)
    keys = pl.Slice(pl.program_id(0) * num_keys, num_keys)
    k, v, key_segments = k_ref[...], v_ref[...], _key_segments(segments_ref, keys)

    def step(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        dk, dv = carry
        queries = pl.Slice(i * size, size)
        q, dout = q_ref[queries, :], dout_ref[queries, :]
        products = _products(k, q, key_segments, _query_segments(segments_ref, queries))
        products = _in_window(products, keys, queries, window)
        weights = _exp2(products, scale, -log_sums_ref[queries][None, :], interpret)
        kept = _kept(states_ref, _positions(queries)[None, :], _positions(keys)[:, None], num_queries, dropout_rate)
        dv += triton.dot(_drop(weights, kept).astype(dout.dtype), dout)
        dweights = _drop(triton.dot(v, dout.T), kept)
        dscores = weights * (dweights - dots_ref[queries][None, :])
        return dk + triton.dot(dscores.astype(q.dtype), q), dv

    start = jnp.zeros(dk_ref.shape, jnp.float32), jnp.zeros(dv_ref.shape, jnp.float32)
    dk, dv = jax.lax.fori_loop(*_tiles(keys, num_queries, size, window), step, start)
    dropout_scale = _dropout_scale(states_ref, dropout_rate)
    dk_ref[...] = (dk * (dropout_scale * k_ref.shape[1] ** -0.5)).astype(dk_ref.dtype)
    dv_ref[...] = (dv * dropout_scale).astype(dv_ref.dtype)


def _queries_kernel(
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
    num_queries, num_keys, scale = len(q_ref), len(k_ref), _score_scale(q_ref)
    queries = pl.Slice(pl.program_id(0) * num_queries, num_queries)
    q, dout, query_segments = q_ref[...], dout_ref[...], _query_segments(segments_ref, queries)
    log_sums, dots = log_sums_ref[...], dots_ref[...]

    def step(i: Array, dq: Array) -> Array:
        keys = pl.Slice(i * size, size)
        k, v = k_ref[keys, :], v_ref[keys, :]
        products = _products(q, k, query_segments, _key_segments(segments_ref, keys))
        products = _in_window(products, queries, keys, window)
        weights = _exp2(products, scale, -log_sums[:, None], interpret)
        kept = _kept(states_ref, _positions(queries)[:, None], _positions(keys)[None, :], num_keys, dropout_rate)
        dweights = triton.dot(dout, v.T)
        if kept is not None:
            dweights = jnp.where(kept, dweights, 0.0)  # faster here than a product, which takes more registers
        dscores = weights * (dweights - dots[:, None])
        return dq + triton.dot(dscores.astype(k.dtype), k)

    dq = jax.lax.fori_loop(*_tiles(queries, num_keys, size, window), step, jnp.zeros(dq_ref.shape, jnp.float32))
    dropout_scale = _dropout_scale(states_ref, dropout_rate)
    dq_ref[...] = (dq * (dropout_scale * q_ref.shape[1] ** -0.5)).astype(dq_ref.dtype)


def _products(
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


def _tiles(tokens: pl.Slice, length: int, size: int, window: int) -> tuple[Any, Any]:
    """Returns the first tile of `size` tokens that the windows of these tokens reach, and the one after the last.

    length: of the row.
    """
    if not window:
        return 0, length // size
    side = window // 2
    first, end = jnp.maximum(tokens.start - side, 0), jnp.minimum(tokens.start + tokens.size + side, length)
    return first // size, (end + size - 1) // size


def _in_window(
    products: Float[Array, "m n"], x_tokens: pl.Slice, y_tokens: pl.Slice, window: int
) -> Float[Array, "m n"]:
    """Returns `MASKED` for pairs of tokens that are not in each other's window."""
    if not window:
        return products
    x, y = (jnp.int32(each.start) + jax.lax.iota(jnp.int32, int(each.size)) for each in (x_tokens, y_tokens))
    return jnp.where(jnp.abs(x[:, None] - y[None, :]) <= window // 2, products, MASKED)


def _exp2(x: Float[Array, "m n"], scale: float, offset: Float[Array, "..."], interpret: bool) -> Float[Array, "m n"]:
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


def _query_segments(segments_ref: Ref | None, queries: pl.Slice) -> Int[Array, " T"] | None:
    """Returns the segments that these queries see; padding, 0, sees segment 1."""
    return None if segments_ref is None else jnp.maximum(segments_ref[queries], 1)


def _key_segments(segments_ref: Ref | None, keys: pl.Slice) -> Int[Array, " S"] | None:
    return None if segments_ref is None else segments_ref[keys]


def _positions(tokens: pl.Slice) -> UInt32[Array, " T"]:
    return jnp.asarray(tokens.start, jnp.uint32) + jax.lax.iota(jnp.uint32, int(tokens.size))


def _kept(
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


def _drop(x: Float[Array, "..."], kept: Bool[Array, "..."] | None) -> Float[Array, "..."]:
    """Returns 0 where dropout keeps nothing, as a product: a selection costs more before a conversion to bfloat16."""
    return x if kept is None else x * kept.astype(x.dtype)


def _score_scale(q_ref: Ref) -> float:
    """Returns the factor from q . k to the logarithm of base 2 of the softmax's numerator."""
    return q_ref.shape[1] ** -0.5 * math.log2(math.e)


def _dropout_scale(states: Any, dropout_rate: float) -> float:
    return 1.0 if states is None else 1 / random_bits.kept_fraction(dropout_rate)
