"""The backward kernel of the symmetric form, which computes the tiles of E again.

With the output O, with V'_s = w_s V_s, dO'_t = dO_t / total_t and D'_t = O_t . dO_t / total_t, the sum of the gradients
of both logits of tokens t and s is

    G_ts = E_ts (dO'_t . V'_s + dO'_s . V'_t - D'_t w_s - D'_s w_t)

The first two terms are one product, of V' above dO' with dO' above V'. As G is symmetric, dQ = G Q / sqrt(Q) is the
whole gradient of the queries, which are the keys too; that of the values is w E dO'.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from symbert_jax.model.short import symmetric, tiles
from symbert_jax.model.short.plan import Plan


def backward(
    plan: Plan,
    segments: Int[Array, "B T"] | None,
    q: Float[Array, "B N Q T"],
    v: Float[Array, "B N H T"],
    output: Float[Array, "B N H T"],
    log_sums: Float[Array, "B N 1 T"],
    d_output: Float[Array, "B N H T"],
) -> tuple[Float[Array, "B N Q T"], Float[Array, "B N H T"]]:
    """Returns the gradients of q, as queries and keys, and of v, given what `forward` took and returned."""
    width = plan.value_width

    def kernel(of_tokens, q, v, output, log_sums, d_output, dq, dv, *scratch):  # type: ignore[no-untyped-def]
        left, right, lower, upper, offsets, transposed, dq_sums, dv_sums, scores, d_weights, kept, d_logits = scratch

        def prepare(head: int) -> None:
            symmetric.clear(plan, dq_sums, head)
            symmetric.clear(plan, dv_sums, head)
            bounds, weights, largest = symmetric.bounds_and_weights(q[head], of_tokens)
            gradients = d_output[head].astype(jnp.float32) * jnp.exp2(bounds + largest - log_sums[head])
            gradients = gradients.astype(v.dtype)
            values = (v[head].astype(jnp.float32) * weights).astype(v.dtype)
            products = (output[head].astype(jnp.float32) * gradients.astype(jnp.float32)).sum(0, keepdims=True)
            rows = jnp.concatenate([products, weights, jnp.zeros((6, plan.length))])
            stored = (
                *symmetric.with_bounds(q[head], bounds),
                jnp.concatenate([values, gradients]),
                jnp.concatenate([gradients, values]),
                rows,
            )
            for memory, array in zip((left, right, lower, upper, offsets), stored, strict=True):
                symmetric.store(plan, memory, head, array)
            for number, block in enumerate(jnp.split(rows, plan.symmetric_blocks, 1)):
                transposed[head, number] = block.T

        def multiply(item: symmetric.Item) -> None:
            scores[item.slot, :, : item.width] = tiles.multiply(left[item.rows], right[item.columns], 0, 0)
            d_weights[item.slot, :, : item.width] = tiles.multiply(lower[item.rows], upper[item.columns], 0, 0)

        def differentiate(item: symmetric.Item) -> None:
            tile = symmetric.exponentials(plan, scores[item.slot, :, : item.width], of_tokens, item)
            head, block, _, rows = item.rows
            of_columns, of_rows = offsets[item.columns], transposed[head, block, rows]
            offset = of_columns[0:1] * of_rows[:, 1:2] + of_columns[1:2] * of_rows[:, 0:1]
            product = tile * (d_weights[item.slot, :, : item.width] - offset)
            kept[item.slot, :, : item.width] = tile.astype(v.dtype)
            d_logits[item.slot, :, : item.width] = product.astype(v.dtype)

        def mix(item: symmetric.Item) -> None:
            for sums, factors, matrices in (
                (dq_sums, lambda tokens: left[tokens][: plan.query_width], d_logits),
                (dv_sums, lambda tokens: upper[tokens][:width], kept),
            ):
                matrix = matrices[item.slot, :, : item.width]
                symmetric.add(sums, item, item.rows, tiles.multiply(factors(item.columns), matrix, 1, 1))
                if item.width > item.skipped:
                    product = tiles.multiply(factors(item.rows), matrix[:, item.skipped :], 1, 0)
                    symmetric.add(sums, item, item.other_columns, product)

        def finish(head: int) -> None:
            dq[head] = (symmetric.load(dq_sums, head) * plan.scale).astype(dq.dtype)
            weights = symmetric.load(offsets, head, slice(1, 2))
            dv[head] = (symmetric.load(dv_sums, head) * weights).astype(dv.dtype)

        symmetric.run(plan, prepare, [multiply, differentiate, mix], finish)

    with_bounds = symmetric.scratch(plan, plan.query_width + symmetric.EXTRA_ROWS, q.dtype)
    both = symmetric.scratch(plan, 2 * width, v.dtype)
    of_queries, of_values = symmetric.head_spec(plan, plan.query_width), symmetric.head_spec(plan, width)
    return pl.pallas_call(
        kernel,
        name="short_attention_symmetric_backward",
        grid=(plan.symmetric_groups, plan.symmetric_pairs),
        in_specs=[
            symmetric.segments_specs(plan) if segments is not None else None,
            of_queries,
            of_values,
            of_values,
            symmetric.head_spec(plan, 1),
            of_values,
        ],
        out_specs=[of_queries, of_values],
        out_shape=[jax.ShapeDtypeStruct(array.shape, array.dtype) for array in (q, v)],
        scratch_shapes=[
            with_bounds,
            with_bounds,
            both,
            both,
            symmetric.scratch(plan, 8),
            pltpu.VMEM((plan.symmetric_group, plan.symmetric_blocks, plan.symmetric_block, 8), jnp.float32),
            symmetric.scratch(plan, plan.query_width),
            symmetric.scratch(plan, width),
            symmetric.stage_scratch(plan),
            symmetric.stage_scratch(plan),
            symmetric.stage_scratch(plan, v.dtype),
            symmetric.stage_scratch(plan, v.dtype),
        ],
        compiler_params=tiles.COMPILER_PARAMS,
        interpret=plan.interpret,
    )(symmetric.segments_of_rows_and_columns(plan, segments), q, v, output, log_sums, d_output)
