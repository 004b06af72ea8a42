"""The forward kernel of the symmetric form."""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from symbert_jax.model.short import symmetric, tiles
from symbert_jax.model.short.plan import Plan

SUM_ROWS = 8  # below the sums of the values: that of the weights, and zeros that complete a register


def forward(
    plan: Plan, segments: Int[Array, "B T"] | None, q: Float[Array, "B N Q T"], v: Float[Array, "B N H T"]
) -> tuple[Float[Array, "B N H T"], Float[Array, "B N 1 T"]]:
    """Returns the output, and for each query the logarithm to base 2 of its sum of exponentials."""
    width = plan.value_width

    def kernel(of_tokens, q, v, output, log_sums, left, right, values, sums, scores):  # type: ignore[no-untyped-def]
        kept: dict[int, Array] = {}  # tiles of E

        def prepare(head: int) -> None:
            symmetric.clear(plan, sums, head)
            bounds, weights, _ = symmetric.bounds_and_weights(q[head], of_tokens)
            for memory, array in zip((left, right), symmetric.with_bounds(q[head], bounds), strict=True):
                symmetric.store(plan, memory, head, array)
            weighted = (v[head].astype(jnp.float32) * weights).astype(v.dtype)
            symmetric.store(plan, values, head, symmetric.stack(weighted, weights))

        def multiply(item: symmetric.Item) -> None:
            scores[item.slot, :, : item.width] = tiles.multiply(left[item.rows], right[item.columns], 0, 0)

        def exponentiate(item: symmetric.Item) -> None:
            tile = symmetric.exponentials(plan, scores[item.slot, :, : item.width], of_tokens, item)
            kept[item.slot] = tile.astype(v.dtype)

        def mix(item: symmetric.Item) -> None:
            tile = kept.pop(item.slot)
            product = tiles.multiply(values[item.columns], tile, 1, 1)
            symmetric.add(sums, item, item.rows, product[: width + SUM_ROWS])
            if item.width > item.skipped:
                product = tiles.multiply(values[item.rows], tile[:, item.skipped :], 1, 0)
                symmetric.add(sums, item, item.other_columns, product[: width + SUM_ROWS])

        def finish(head: int) -> None:
            bounds, _, largest = symmetric.bounds_and_weights(q[head], of_tokens)
            all_sums = symmetric.load(sums, head)
            total = all_sums[width : width + 1]
            sees_tokens = total > symmetric.SMALLEST_TOTAL
            total = jnp.where(sees_tokens, total, 1.0)
            output[head] = jnp.where(sees_tokens, all_sums[:width] / total, 0.0).astype(output.dtype)
            log_sums[head] = jnp.where(sees_tokens, bounds + largest + jnp.log2(total), jnp.inf)

        symmetric.run(plan, prepare, [multiply, exponentiate, mix], finish)

    with_bounds = symmetric.scratch(plan, plan.query_width + symmetric.EXTRA_ROWS, q.dtype)
    return pl.pallas_call(
        kernel,
        name="short_attention_symmetric_forward",
        grid=(plan.symmetric_groups, plan.symmetric_pairs),
        in_specs=[
            symmetric.segments_specs(plan) if segments is not None else None,
            symmetric.head_spec(plan, plan.query_width),
            symmetric.head_spec(plan, width),
        ],
        out_specs=[symmetric.head_spec(plan, width), symmetric.head_spec(plan, 1)],
        out_shape=[
            jax.ShapeDtypeStruct(v.shape, v.dtype),
            jax.ShapeDtypeStruct((plan.rows, plan.heads, 1, plan.length), jnp.float32),
        ],
        scratch_shapes=[
            with_bounds,
            with_bounds,
            symmetric.scratch(plan, width + symmetric.EXTRA_ROWS, v.dtype),
            symmetric.scratch(plan, width + SUM_ROWS),
            symmetric.stage_scratch(plan),
        ],
        compiler_params=tiles.COMPILER_PARAMS,
        interpret=plan.interpret,
    )(symmetric.segments_of_rows_and_columns(plan, segments), q, v)
