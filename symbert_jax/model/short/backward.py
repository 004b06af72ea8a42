"""The backward kernel: a grid step computes the probabilities of a block of queries again, and all gradients from them.

With the output O = (M P) V / r, where M is the dropout mask and r the fraction kept, and with D = sum over H of O dO,
the gradient of the logits is P (M (V dO) - r D) / r. The kernel multiplies without the factor 1 / r and scales the
products, which are smaller.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int, UInt32

from symbert_jax.model import random_bits
from symbert_jax.model.short import tiles
from symbert_jax.model.short.plan import Keys, Plan

LONGEST_CHUNK = 256  # keys whose probabilities are computed at a time


def backward(
    plan: Plan,
    states: UInt32[Array, "B N 2"] | None,
    segments: Int[Array, "B T"] | None,
    q: Float[Array, "B N Q T"],
    k: Float[Array, "B N Q T"],
    v: Float[Array, "B N H T"],
    output: Float[Array, "B N H T"],
    log_sums: Float[Array, "B N 1 T"],
    d_output: Float[Array, "B N H T"],
) -> tuple[Float[Array, "B N Q T"], Float[Array, "B N Q T"], Float[Array, "B N H T"]]:
    """Returns the gradients of q, k and v, given what `forward` took and returned, and the gradient of its output."""

    def number(group: Any, block: Any) -> Any:
        return group * plan.blocks + block

    def kernel(states, of_tokens, q, k, v, output, log_sums, d_output, dq, dk, dv, dk_sums, dv_sums):  # type: ignore[no-untyped-def]
        block = pl.program_id(1)
        heads = range(plan.group)
        dropouts = [tiles.Dropout(plan, states, head, block) for head in heads]
        kept_fraction = random_bits.kept_fraction(plan.dropout_rate)
        products = output[...].astype(jnp.float32) * d_output[...].astype(jnp.float32)
        offsets = products.sum(1, keepdims=True) * kept_fraction
        dq_sums = [jnp.zeros((plan.query_width, plan.block)) for _ in heads]

        if plan.window:  # the first block does not reach all keys

            @pl.when(block == 0)
            def _() -> None:
                dk_sums[...], dv_sums[...] = jnp.zeros_like(dk_sums), jnp.zeros_like(dv_sums)

        def add(sums: Any, head: int, keys: Keys, product: Array) -> None:
            before = sums[head, :, keys.tokens]
            sums[head, :, keys.tokens] = product + (before if plan.window else jnp.where(block > 0, before, 0.0))

        for (keys,) in plan.chunks(LONGEST_CHUNK, block):
            for head in heads:
                logits = tiles.logits(plan, q.at[head], k.at[head], of_tokens, block, keys)
                weights = jnp.exp2(logits - log_sums[head])
                d_weights = tiles.multiply(v[head, :, keys.tokens], d_output[head], 0, 0)
                masks = dropouts[head].masks(keys)
                kept = tiles.drop(weights, masks).astype(v.dtype)
                d_logits = (weights * (tiles.drop(d_weights, masks) - offsets[head])).astype(v.dtype)
                add(dv_sums, head, keys, tiles.multiply(d_output[head], kept, 1, 1))
                add(dk_sums, head, keys, tiles.multiply(q[head], d_logits, 1, 1))
                dq_sums[head] += tiles.multiply(k[head, :, keys.tokens], d_logits, 1, 0)
        for head in heads:
            dq[head] = (dq_sums[head] * (plan.scale / kept_fraction)).astype(dq.dtype)

        @pl.when(block == plan.blocks - 1)
        def _() -> None:
            dk[...] = (dk_sums[...] * (plan.scale / kept_fraction)).astype(dk.dtype)
            dv[...] = (dv_sums[...] * (1 / kept_fraction)).astype(dv.dtype)

    of_queries, of_keys = plan.head_spec(plan.query_width, number), plan.head_spec(plan.query_width, number, whole=True)
    of_values, of_outputs = (
        plan.head_spec(plan.value_width, number, whole=True),
        plan.head_spec(plan.value_width, number),
    )
    return pl.pallas_call(
        kernel,
        name="short_attention_backward",
        grid=(plan.groups, plan.blocks),
        in_specs=[
            tiles.states_spec(plan, number) if states is not None else None,
            tiles.segments_specs(plan, number) if segments is not None else None,
            of_queries,
            of_keys,
            of_values,
            of_outputs,
            plan.head_spec(1, number),
            of_outputs,
        ],
        out_specs=[of_queries, of_keys, of_values],
        out_shape=[jax.ShapeDtypeStruct(array.shape, array.dtype) for array in (q, k, v)],
        scratch_shapes=[
            pltpu.VMEM((plan.group, plan.query_width, plan.length), jnp.float32),
            pltpu.VMEM((plan.group, plan.value_width, plan.length), jnp.float32),
        ],
        compiler_params=tiles.COMPILER_PARAMS,
        interpret=plan.interpret,
    )(tiles.states_of_heads(states), tiles.segments_of_keys_and_queries(segments), q, k, v, output, log_sums, d_output)
