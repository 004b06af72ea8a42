"""What the forward and the backward kernel have in common: products, logits and dropout of a tile [keys, queries]."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float, Int, UInt32

from symbert_jax.model import random_bits
from symbert_jax.model.short.plan import Keys, Plan

MASKED = float(np.finfo(np.float32).min)  # the logit of a key that a query does not see
# The cores of a device share the first dimension of the grid. The limit of VMEM is in bytes.
COMPILER_PARAMS = pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=64 * 2**20)


def states_of_heads(states: UInt32[Array, "B N 2"] | None) -> UInt32[Array, "B N 1 2"] | None:
    """Returns the states in the shape that a kernel takes."""
    return None if states is None else states[:, :, None]


def states_spec(plan: Plan, number: Callable[..., Any]) -> pl.BlockSpec:
    """Returns the part of `states_of_heads` that a grid step takes; `number` as for `Plan.head_spec`."""

    def index_map(*indices: Any) -> tuple[Any, ...]:
        row, group, _ = plan.locate(number(*indices))
        return row, group, 0, 0

    return pl.BlockSpec((None, plan.group, 1, 2), index_map, memory_space=pltpu.SMEM)


def segments_of_keys_and_queries(segments: Int[Array, "B T"] | None) -> tuple[Array, Array] | None:
    """Returns the segments that keys have [B, T, 1], and those that queries see [B, 1, T]."""
    return None if segments is None else (segments[:, :, None], jnp.maximum(segments, 1)[:, None, :])


def segments_specs(plan: Plan, number: Callable[..., Any]) -> tuple[pl.BlockSpec, pl.BlockSpec]:
    """Returns the parts of `segments_of_keys_and_queries` that a grid step takes; `number` as for `Plan.head_spec`."""

    def of_keys(*indices: Any) -> tuple[Any, ...]:
        row, _, _ = plan.locate(number(*indices))
        return row, 0, 0

    def of_queries(*indices: Any) -> tuple[Any, ...]:
        row, _, block = plan.locate(number(*indices))
        return row, 0, block

    return pl.BlockSpec((None, plan.length, 1), of_keys), pl.BlockSpec((None, 1, plan.block), of_queries)


def multiply(a: Array, b: Array, contract_a: int, contract_b: int) -> Float[Array, "rows columns"]:
    """Returns the product of two matrices that contracts a dimension of each, accumulated in float32."""
    return jax.lax.dot_general(a, b, (((contract_a,), (contract_b,)), ((), ())), preferred_element_type=jnp.float32)


def logit_factor(query_width: int) -> float:
    """Returns the factor that makes logits of the products of queries and keys."""
    return query_width**-0.5 * math.log2(math.e)


def logits(plan: Plan, q: Any, k: Any, segments: Any, block: Any, keys: Keys) -> Float[Array, "S T"]:
    """Returns log2(e) q . k / sqrt(Q) of some keys. Two to the power of a logit is an exponential of softmax.

    q, k, segments: references to the queries [Q, T], all keys [Q, T], and both segments or None.
    block: the index of the block of queries.
    """
    scores = multiply(k[:, keys.tokens], q[...], 0, 0) * logit_factor(plan.query_width)
    if segments is not None:
        of_keys, of_queries = segments
        scores = jnp.where(of_keys[keys.tokens] == of_queries[...], scores, MASKED)
    if plan.window:
        key = jax.lax.broadcasted_iota(jnp.int32, (len(scores), 1), 0) + (keys.first - block * plan.block)
        distance = jnp.abs(key - jax.lax.broadcasted_iota(jnp.int32, (1, plan.block), 1))
        scores = jnp.where(distance <= plan.window // 2, scores, MASKED)
    return scores


class Dropout:
    """Dropout of the probabilities of a head and a block of queries, as `random_bits.keep` draws it for all heads."""

    def __init__(self, plan: Plan, states: Any, head: int, block: Array):
        """Computes the counters of the first key.

        states: a reference to the states of the group, or None.
        head: the index of the head in its group.
        block: the index of the block of queries.
        """
        self.rate = plan.dropout_rate
        if self.rate:
            first, self.gamma = states[head, 0, 0], states[head, 0, 1]
            stride = np.uint32(random_bits.states_per_row(plan.length))
            queries = jax.lax.broadcasted_iota(jnp.uint32, (1, plan.block), 1) * stride
            first += block.astype(jnp.uint32) * plan.block * stride * self.gamma
            self.first_key = first + queries * self.gamma

    def masks(self, keys: Keys) -> list[Bool[Array, "64 T"]]:
        """Returns for each 64 of some keys which probabilities are kept; without dropout, returns no masks."""
        masks = []
        for offset in range(0, keys.scores.stop - keys.scores.start, 2 * random_bits.PAIRED) if self.rate else ():
            number = jax.lax.broadcasted_iota(jnp.uint32, (random_bits.PAIRED, 1), 0)
            number += jnp.uint32(keys.first // 2 + offset // 2)
            upper = random_bits.mix(self.first_key + number * self.gamma)
            masks += [random_bits.is_kept(bits, self.rate) for bits in (upper, random_bits.lower_half(upper))]
        return masks


def drop(tile: Float[Array, "S T"], masks: list[Bool[Array, "64 T"]]) -> Float[Array, "S T"]:
    """Returns the tile with zeros where `masks` are false; the rest is not scaled. Without masks, returns the tile."""
    if not masks:
        return tile
    parts = jnp.split(tile, len(masks))
    return jnp.concatenate([jnp.where(mask, part, 0.0) for mask, part in zip(masks, parts, strict=True)])
