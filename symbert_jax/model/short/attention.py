"""Attention on all devices, and its gradients, from the kernels of one device."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec, reshard
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt32

from symbert_jax.batch import Array as AnyArray
from symbert_jax.model import random_bits
from symbert_jax.model.short.backward import backward
from symbert_jax.model.short.forward import forward
from symbert_jax.model.short.plan import Plan
from symbert_jax.sharding import device, spec


def attend(
    q: Float[Array, "B T N Q"],
    k: Float[Array, "B T N Q"],
    v: Float[Array, "B T N H"],
    segments: Int[AnyArray, "B T"] | None,
    dropout_rate: float,
    key: PRNGKeyArray | None,
    *,
    interpret: bool,
) -> Float[Array, "B T N H"]:
    """Computes attention without communication between devices; T is a multiple of 128.

    key: draws dropout of the probabilities (None: off), as the kernel `xla` does.
    interpret: runs the kernels without a TPU, slowly.
    """
    dropout_rate = 0.0 if key is None else dropout_rate
    generator = jnp.zeros(2, jnp.uint32) if key is None else random_bits.seed_and_gamma(key)
    _, length, all_heads, _ = q.shape
    cores = device().num_cores or 1
    head_stride = random_bits.state_strides((1, all_heads, length, length))[1]

    def run(q: Array, k: Array, v: Array, segments: Array | None, generator: Array) -> Array:
        rows, _, heads, query_width = q.shape
        plan = Plan(
            rows=rows,
            heads=heads,
            query_width=query_width,
            value_width=v.shape[-1],
            length=length,
            all_heads=all_heads,
            cores=cores if rows * heads % cores == 0 else 1,
            dropout_rate=dropout_rate,
            interpret=interpret,
        )
        first_head = jax.lax.axis_index("data") * rows * all_heads + jax.lax.axis_index("model") * heads
        seed, gamma = generator
        first_state = seed + first_head.astype(jnp.uint32) * np.uint32(head_stride) * gamma
        q, k, v = (x.transpose(0, 2, 3, 1) for x in (q, k, v))
        return _attend(plan, jnp.stack([first_state, gamma])[None], segments, q, k, v).transpose(0, 3, 1, 2)

    array, of_tokens = spec("BTNH"), spec("BT")
    in_specs = array, array, array, of_tokens, PartitionSpec()
    sharded = jax.shard_map(run, in_specs=in_specs, out_specs=array, check_vma=False)
    return sharded(q, k, v, None if segments is None else reshard(segments, of_tokens), generator)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    plan: Plan, generator: UInt32[Array, "1 2"], segments: Array | None, q: Array, k: Array, v: Array
) -> Float[Array, "B N H T"]:
    return forward(plan, generator, segments, q, k, v)[0]


def _attend_forward(
    plan: Plan, generator: UInt32[Array, "1 2"], segments: Array | None, q: Array, k: Array, v: Array
) -> tuple[Array, tuple[Any, ...]]:
    output, log_sum = forward(plan, generator, segments, q, k, v)
    return output, (generator, segments, q, k, v, output, log_sum)


def _attend_backward(plan: Plan, residuals: tuple[Any, ...], d_output: Array) -> tuple[Array | None, ...]:
    generator, segments, q, k, v, output, log_sum = residuals
    return None, None, *backward(plan, generator, segments, q, k, v, output, log_sum, d_output)


_attend.defvjp(_attend_forward, _attend_backward)
