"""What the two kernels of the symmetric form have in common: bounds of exponents, and the order of their work.

A symmetric logit S_ts = log2(e) q_t . q_s / sqrt(Q) is the same in both directions, and so is, for any bounds a,
E_ts = 2^(S_ts - a_t - a_s). So one exponential serves two entries of the softmax,

    P_ts = E_ts w_s / total_t,  total_t = sum over s of E_ts w_s,  w_s = 2^(a_s - max a), or 0 for padding.

The bounds are a_t = S_tt / 2, rounded up to integers, which makes the weights w powers of two and products with them
exact. No E_ts is more than 1, because S_ts <= (S_tt + S_ss) / 2. The bounds are three more rows of the queries, so that
the matrix unit subtracts them. Without much difference between the bounds of a head, which `in_range` checks, no total
of a token that sees itself underflows.

A grid step takes a pair of blocks of tokens, (i, j) with i <= j, and computes the tiles of E that are not below the
diagonal, each 128 rows high. A tile gives the output of its columns, which see its rows, and that of its rows.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float, Int

from symbert_jax.model.short import tiles
from symbert_jax.model.short.plan import LANES, Plan

EXTRA_ROWS = 16  # of an array with tokens along the lanes, for what is not a query or a value: a tile in bfloat16
WIDEST_SPREAD = 80.0  # of the bounds of a head; a spread of 126 would underflow
SMALLEST_TOTAL = 2.0**-100  # a token with less sees no token, or is padding: within the spread, no other has less
LAG = 1  # the items between two stages of `run`
SLOTS = 2 * LAG + 1  # the items that are between the first and the last stage


class Item(NamedTuple):
    """A tile of E of one head of a grid step, with all columns of its block that are not below the diagonal."""

    slot: int  # in the arrays that hold the results of the stages
    head: int
    rows: tuple[Any, ...]  # the indices of its rows in an array [heads, blocks, features, tokens of a block]
    columns: tuple[Any, ...]  # of its columns
    other_columns: tuple[Any, ...]  # of its columns without those of a tile on the diagonal
    width: int  # the number of columns
    skipped: int  # the number of columns that are not in `other_columns`
    is_first: bool  # whether it is the first of its head, and of a row of one block
    is_last: bool  # whether it is the last of these


def in_range(queries: Float[Array, "B N Q T"]) -> Bool[Array, ""]:
    """Returns whether no row of softmax underflows: the bounds of each head are close to each other.

    Under `jax.vmap`, returns whether this holds for the whole batch, so that one branch of a condition runs.
    """

    @jax.custom_batching.custom_vmap
    def all_in_range(queries: Array) -> Array:
        bounds = _half_of_own_logit(queries, axis=-2)
        return jnp.all(bounds.max(-1) - bounds.min(-1) <= WIDEST_SPREAD)

    @all_in_range.def_vmap
    def _(axis_size: int, batched: list[bool], queries: Array) -> tuple[Array, bool]:
        del axis_size, batched
        return all_in_range(queries), False

    return all_in_range(queries)


def _half_of_own_logit(queries: Array, axis: int) -> Array:
    width = queries.shape[axis]
    factor = tiles.logit_factor(width) / 2
    return jnp.square(queries.astype(jnp.float32)).sum(axis) * factor


def bounds_and_weights(
    queries: Float[Array, "Q T"], of_tokens: Any
) -> tuple[Float[Array, "1 T"], Float[Array, "1 T"], Float[Array, "1 1"]]:
    """Returns the bounds a, the weights w and the largest bound of a head.

    of_tokens: references to `segments_of_rows_and_columns`, or None.
    """
    bounds = jnp.ceil(_half_of_own_logit(queries, axis=0)[None])
    largest = bounds.max(1, keepdims=True)
    weights = jnp.exp2(bounds - largest)
    if of_tokens is not None:
        _, of_columns = of_tokens
        weights = jnp.where(jnp.concatenate(list(of_columns[...]), 1) > 0, weights, 0.0)
    return bounds, weights, largest


def with_bounds(queries: Float[Array, "Q T"], bounds: Float[Array, "1 T"]) -> tuple[Array, Array]:
    """Returns two arrays [Q + EXTRA_ROWS, T]; products of columns t and s are proportional to S_ts - a_t - a_s."""
    rest, parts = bounds / tiles.logit_factor(queries.shape[0]), []
    for _ in range(3):  # three numbers of 8 bits have the 24 bits of a float32
        parts.append(rest.astype(jnp.bfloat16).astype(jnp.float32))
        rest -= parts[-1]
    numbers, ones = jnp.concatenate(parts), jnp.ones((3, bounds.shape[1]))
    return stack(queries, numbers, ones), stack(queries, -ones, -numbers)


def stack(array: Array, *rows: Array) -> Array:
    """Returns the array with EXTRA_ROWS more rows of its type: these rows and zeros."""
    extra = jnp.concatenate(rows)
    zeros = jnp.zeros((EXTRA_ROWS - len(extra), extra.shape[1]))
    return jnp.concatenate([array, jnp.concatenate([extra, zeros]).astype(array.dtype)])


def exponentials(plan: Plan, scores: Float[Array, "R C"], of_tokens: Any, item: Item) -> Float[Array, "R C"]:
    """Returns a tile of E, with zeros where tokens are of different segments; padding is of segment 1.

    scores: the products of the columns of `with_bounds`.
    """
    tile = jnp.exp2(scores * tiles.logit_factor(plan.query_width))
    if of_tokens is None:
        return tile
    of_rows, of_columns = of_tokens
    _, first, _, rows = item.rows
    same = jnp.maximum(of_rows[first, rows], 1) == jnp.maximum(of_columns[item.columns[1:]], 1)
    return jnp.where(same, tile, 0.0)


def segments_of_rows_and_columns(plan: Plan, segments: Int[Array, "B T"] | None) -> tuple[Array, Array] | None:
    """Returns the segments of each block of tokens as columns of a matrix and as rows."""
    if segments is None:
        return None
    blocks = segments.reshape(plan.rows, plan.symmetric_blocks, plan.symmetric_block)
    return blocks[..., None], blocks[..., None, :]


def segments_specs(plan: Plan) -> tuple[pl.BlockSpec, pl.BlockSpec]:
    """Returns the parts of `segments_of_rows_and_columns` that a grid step takes: all tokens of a row."""

    def row(group: Any, pair: Any) -> tuple[Any, ...]:
        return group // (plan.heads // plan.symmetric_group), 0, 0, 0

    blocks, block = plan.symmetric_blocks, plan.symmetric_block
    return pl.BlockSpec((None, blocks, block, 1), row), pl.BlockSpec((None, blocks, 1, block), row)


def scratch(plan: Plan, size: int, dtype: Any = jnp.float32) -> Any:
    """Returns memory for `size` numbers for each token of the heads of a grid step, [heads, blocks, size, tokens]."""
    return pltpu.VMEM((plan.symmetric_group, plan.symmetric_blocks, size, plan.symmetric_block), dtype)


def stage_scratch(plan: Plan, dtype: Any = jnp.float32) -> Any:
    """Returns memory for the results of a stage."""
    return pltpu.VMEM((SLOTS, LANES, plan.symmetric_block), dtype)


def store(plan: Plan, memory: Any, head: int, array: Float[Array, "size T"]) -> None:
    """Writes an array of all tokens of a head to `scratch`."""
    for number, block in enumerate(jnp.split(array, plan.symmetric_blocks, 1)):
        memory[head, number] = block.astype(memory.dtype)


def load(memory: Any, head: int, rows: slice = slice(None)) -> Float[Array, "size T"]:
    """Reads an array of all tokens of a head from `scratch`."""
    return jnp.concatenate(list(memory[head, :, rows]), 1)


def head_spec(plan: Plan, size: int) -> pl.BlockSpec:
    """Returns the part of an array [B, N, `size`, T] that a grid step takes: all tokens of its heads."""

    def heads(group: Any, pair: Any) -> tuple[Any, ...]:
        return *divmod(group, plan.heads // plan.symmetric_group), 0, 0

    return pl.BlockSpec((None, plan.symmetric_group, size, plan.length), heads)


def clear(plan: Plan, sums: Any, head: int) -> None:
    """Sets the sums of a head to zero, unless its first item sets them."""
    if plan.symmetric_blocks > 1:
        sums[head] = jnp.zeros_like(sums[head])


def add(sums: Any, item: Item, tokens: tuple[Any, ...], product: Array) -> None:
    """Adds a product to the sums of these tokens. The first item of a head sets the sums of all."""
    sums[tokens] = product + (0.0 if item.is_first else sums[tokens])


def run(
    plan: Plan, prepare: Callable[[int], None], stages: list[Callable[[Item], None]], finish: Callable[[int], None]
) -> None:
    """Computes a grid step.

    Prepares each head, takes its items through the stages, and finishes it. Each of these is LAG items behind the one
    before it: they use different units of a core, which thus work at the same time.
    """

    def run_stages(items: list[Item], stages: list[Callable[[Item], None]]) -> None:
        for step in range(len(items) + LAG * (len(stages) - 1)):
            for number, stage in enumerate(stages):
                if 0 <= step - LAG * number < len(items):
                    stage(items[step - LAG * number])

    def prepare_first(item: Item) -> None:
        if item.is_first:
            prepare(item.head)

    def finish_last(item: Item) -> None:
        if item.is_last:
            finish(item.head)

    if plan.symmetric_blocks == 1:
        run_stages(list(_items(plan, 0, 0, is_diagonal=True)), [prepare_first, *stages, finish_last])
        return
    heads, pair = range(plan.symmetric_group), pl.program_id(1)
    first, second = _blocks_of_pair(plan, pair)

    @pl.when(pair == 0)
    def _() -> None:
        for head in heads:
            prepare(head)

    pl.when(first == second)(lambda: run_stages(list(_items(plan, first, second, is_diagonal=True)), stages))
    pl.when(first != second)(lambda: run_stages(list(_items(plan, first, second, is_diagonal=False)), stages))

    @pl.when(pair == plan.symmetric_pairs - 1)
    def _() -> None:
        for head in heads:
            finish(head)


def _blocks_of_pair(plan: Plan, pair: Any) -> tuple[Any, Any]:
    """Returns the indices i <= j of the blocks of a pair; pairs are in the order of i, then of j."""
    starts = [
        sum(range(plan.symmetric_blocks, plan.symmetric_blocks - first, -1)) for first in range(plan.symmetric_blocks)
    ]
    first, start = jnp.int32(0), jnp.int32(0)
    for each in starts[1:]:
        first, start = first + (pair >= each), jnp.where(pair >= each, each, start)
    return first, pair - start + first


def _items(plan: Plan, first: Any, second: Any, is_diagonal: bool) -> Iterator[Item]:
    """Yields the items of a pair of blocks, head by head."""
    block, offsets = plan.symmetric_block, range(0, plan.symmetric_block, LANES)
    for number, (head, offset) in enumerate(itertools.product(range(plan.symmetric_group), offsets)):
        start, skipped = (offset, LANES) if is_diagonal else (0, 0)
        yield Item(
            slot=number % SLOTS,
            head=head,
            rows=(head, first, slice(None), slice(offset, offset + LANES)),
            columns=(head, second, slice(None), slice(start, block)),
            other_columns=(head, second, slice(None), slice(start + skipped, block)),
            width=block - start,
            skipped=skipped,
            is_first=plan.symmetric_blocks == 1 and offset == 0,
            is_last=plan.symmetric_blocks == 1 and offset == offsets[-1],
        )
