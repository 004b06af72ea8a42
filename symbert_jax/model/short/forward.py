"""The forward kernel.

A grid step computes the logits of a block of queries, which keeps the matrix unit busy, and turns those of the step
before it into probabilities and output, which keeps the vector unit busy. So there is one additional step: the output
of the first has no meaning and is overwritten by the second, and nothing reads the logits of the last.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int, UInt32

from symbert_jax.model import random_bits
from symbert_jax.model.short import tiles
from symbert_jax.model.short.plan import Plan

LONGEST_CHUNK = 128  # keys whose probabilities are computed at a time; longer chunks would spill registers


def forward(
    plan: Plan,
    states: UInt32[Array, "B N 2"] | None,
    segments: Int[Array, "B T"] | None,
    q: Float[Array, "B N Q T"],
    k: Float[Array, "B N Q T"],
    v: Float[Array, "B N H T"],
) -> tuple[Float[Array, "B N H T"], Float[Array, "B N 1 T"]]:
    """Returns the output, and for each query the logarithm to base 2 of its sum of exponentials."""
    steps = plan.steps

    def current(core: Any, step: Any) -> Any:
        return core * steps + jnp.minimum(step, steps - 1)

    def previous(core: Any, step: Any) -> Any:
        return core * steps + jnp.maximum(step - 1, 0)

    def kernel(states, of_tokens, q, k, v, output, log_sums, scores, maxima):  # type: ignore[no-untyped-def]
        new_block, block = (number(pl.program_id(0), pl.program_id(1)) % plan.blocks for number in (current, previous))
        heads = range(plan.group)
        dropouts = [tiles.Dropout(plan, states, head, block) for head in heads]
        last_maxima, new_maxima = [maxima[head] for head in heads], [jnp.full((1, plan.block), -jnp.inf) for _ in heads]
        totals = [jnp.zeros((1, plan.block)) for _ in heads]
        mixed = [jnp.zeros((plan.value_width, plan.block)) for _ in heads]
        for new_keys, keys in plan.chunks(LONGEST_CHUNK, new_block, block):
            for head in heads:
                weights = jnp.exp2(scores[head, keys.scores] - last_maxima[head])
                totals[head] += weights.sum(0, keepdims=True)
                kept = tiles.drop(weights, dropouts[head].masks(keys)).astype(v.dtype)
                mixed[head] += tiles.multiply(v[head, :, keys.tokens], kept, 1, 0)
                new = tiles.logits(plan, q.at[head], k.at[head], of_tokens, new_block, new_keys)
                scores[head, new_keys.scores] = new
                new_maxima[head] = jnp.maximum(new_maxima[head], new.max(0, keepdims=True))
        for head in heads:
            last, total = last_maxima[head], totals[head]
            kept_total = total * random_bits.kept_fraction(plan.dropout_rate)
            output[head] = (mixed[head] / kept_total).astype(output.dtype)
            # a query that sees no token, in a row of padding alone, gets the mean of the values and has no gradients
            log_sums[head] = jnp.where(last > tiles.MASKED, last + jnp.log2(total), jnp.inf)
            maxima[head] = new_maxima[head]

    output, log_sums = plan.head_spec(plan.value_width, previous), plan.head_spec(1, previous)
    return pl.pallas_call(
        kernel,
        name="short_attention_forward",
        grid=(plan.cores, steps + 1),
        in_specs=[
            tiles.states_spec(plan, previous) if states is not None else None,
            tiles.segments_specs(plan, current) if segments is not None else None,
            plan.head_spec(plan.query_width, current),
            plan.head_spec(plan.query_width, current, whole=True),
            plan.head_spec(plan.value_width, previous, whole=True),
        ],
        out_specs=[output, log_sums],
        out_shape=[
            jax.ShapeDtypeStruct(v.shape, v.dtype),
            jax.ShapeDtypeStruct((plan.rows, plan.heads, 1, plan.length), jnp.float32),
        ],
        scratch_shapes=[
            pltpu.VMEM((plan.group, plan.num_keys, plan.block), jnp.float32),
            pltpu.VMEM((plan.group, 1, plan.block), jnp.float32),
        ],
        compiler_params=tiles.COMPILER_PARAMS,
        interpret=plan.interpret,
    )(tiles.states_of_heads(states), tiles.segments_of_keys_and_queries(segments), q, k, v)
