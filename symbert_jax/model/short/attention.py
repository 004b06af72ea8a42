"""Attention of one device, and its gradients."""

import functools
from typing import Any

import jax
from jaxtyping import Array, Float, Int, UInt32

from symbert_jax.model.short import symmetric, symmetric_backward, symmetric_forward
from symbert_jax.model.short.backward import backward
from symbert_jax.model.short.forward import forward
from symbert_jax.model.short.plan import Plan


def attention(
    q: Float[Array, "B T N Q"],
    k: Float[Array, "B T N Q"],
    v: Float[Array, "B T N H"],
    segments: Int[Array, "B T"] | None,
    states: UInt32[Array, "B N 2"] | None,
    dropout_rate: float,
    window: int,
    is_symmetric: bool,
    cores: int,
    interpret: bool,
) -> Float[Array, "B T N H"]:
    """Computes softmax(q . k / sqrt(Q)) v; T is a multiple of 128.

    states: for each head, the counter of the first state of `random_bits` and the step to the next counter; None means
      no dropout.
    window: of `windows`.
    is_symmetric: the keys are the queries.
    cores: of the device.
    interpret: runs the kernels without a TPU, slowly.
    """
    rows, length, heads, query_width = q.shape
    plan = Plan(
        rows=rows,
        heads=heads,
        query_width=query_width,
        value_width=v.shape[-1],
        length=length,
        device_cores=cores,
        dropout_rate=0.0 if states is None else dropout_rate,
        interpret=interpret,
    ).with_window(window)
    q, k, v = (x.transpose(0, 2, 3, 1) for x in (q, k, v))
    if is_symmetric and plan.has_symmetric_form:
        return _symmetric_attention(plan, segments, q, v).transpose(0, 3, 1, 2)
    return _attention(plan, states, segments, q, k, v).transpose(0, 3, 1, 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(
    plan: Plan, states: Array | None, segments: Array | None, q: Array, k: Array, v: Array
) -> Float[Array, "B N H T"]:
    return forward(plan, states, segments, q, k, v)[0]


def _attention_forward(
    plan: Plan, states: Array | None, segments: Array | None, q: Array, k: Array, v: Array
) -> tuple[Array, tuple[Any, ...]]:
    output, log_sums = forward(plan, states, segments, q, k, v)
    return output, (states, segments, q, k, v, output, log_sums)


def _attention_backward(plan: Plan, residuals: tuple[Any, ...], d_output: Array) -> tuple[Array | None, ...]:
    states, segments, q, k, v, output, log_sums = residuals
    return None, None, *backward(plan, states, segments, q, k, v, output, log_sums, d_output)


_attention.defvjp(_attention_forward, _attention_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _symmetric_attention(plan: Plan, segments: Array | None, q: Array, v: Array) -> Float[Array, "B N H T"]:
    return _symmetric_attention_forward(plan, segments, q, v)[0]


def _symmetric_attention_forward(
    plan: Plan, segments: Array | None, q: Array, v: Array
) -> tuple[Array, tuple[Any, ...]]:
    in_range = symmetric.in_range(q)
    output, log_sums = jax.lax.cond(
        in_range,
        lambda: symmetric_forward.forward(plan, segments, q, v),
        lambda: forward(plan, None, segments, q, q, v),
    )
    return output, (in_range, segments, q, v, output, log_sums)


def _symmetric_attention_backward(plan: Plan, residuals: tuple[Any, ...], d_output: Array) -> tuple[Array | None, ...]:
    in_range, segments, q, v, output, log_sums = residuals

    def differentiate() -> tuple[Array, Array]:
        return symmetric_backward.backward(plan, segments, q, v, output, log_sums, d_output)

    def differentiate_without_symmetry() -> tuple[Array, Array]:
        dq, dk, dv = backward(plan, None, segments, q, q, v, output, log_sums, d_output)
        return dq + dk, dv

    return None, *jax.lax.cond(in_range, differentiate, differentiate_without_symmetry)


_symmetric_attention.defvjp(_symmetric_attention_forward, _symmetric_attention_backward)
