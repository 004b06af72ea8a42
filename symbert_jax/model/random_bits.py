"""Random bits that are the same on every mesh and in every kernel, because they depend only on an element's index.

SplitMix (Steele, Lea, Flood, 2014, figure 17) in 32 bits: state n is mix(seed + n gamma), where mix is the finalizer of
MurmurHash3. JAX's own generators cost several times the arithmetic (docs/performance.md). They still draw keys and
initial parameters, which need better random numbers.

A state decides for two elements with 16 bits each: for element s of the last dimension with s mod 128 < 64 by its
upper half, and for element s + 64 by its lower half. So dropout rates are multiples of 2^-16, and a kernel for TPUs
computes one state for two decisions, in registers whose rows are 64 elements apart.
"""

import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, PRNGKeyArray, UInt32

PAIRED = 64  # elements s and s + PAIRED share a state


def keep(key: PRNGKeyArray, dropout_rate: float, like: Array) -> Bool[Array, "..."]:
    """Returns which elements of `like` dropout keeps, sharded like it."""
    *axes, last_axis = jax.typeof(like).sharding.spec
    *shape, width = like.shape
    seed, gamma = seed_and_gamma(key)
    rows = counters(seed, gamma * np.uint32(states_per_row(width)), tuple(shape), axes)
    index = jax.lax.broadcasted_iota(jnp.uint32, (width,), 0, out_sharding=PartitionSpec(last_axis))
    return is_kept(draw(rows[..., None], gamma, index), dropout_rate)


def seed_and_gamma(key: PRNGKeyArray) -> tuple[UInt32[Array, ""], UInt32[Array, ""]]:
    """Returns the counter of the first state and the step from each state to the next, an odd number."""
    seed, gamma = jax.random.key_data(key)
    return seed, gamma | 1


def counters(
    seed: UInt32[Array, ""], step: UInt32[Array, ""], shape: tuple[int, ...], axes: Iterable[str | None]
) -> UInt32[Array, "..."]:
    """Returns seed + n step for each element n of an array of this shape, sharded along these mesh axes."""
    counter = jnp.broadcast_to(seed, ())
    for dim, (size, axis) in enumerate(zip(shape, axes, strict=True)):
        stride = math.prod(shape[dim + 1 :]) % 2**32
        index = jax.lax.broadcasted_iota(jnp.uint32, (size,), 0, out_sharding=PartitionSpec(axis))
        counter = counter[..., None] + index * (step * np.uint32(stride))
    return counter


def states_per_row(width: int) -> int:
    """Returns the number of states of `width` elements of the last dimension, with those that complete 128 elements."""
    return -(-width // (2 * PAIRED)) * PAIRED


def draw(row: UInt32[Array, "..."], gamma: UInt32[Array, ""], index: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """Returns the bits of elements of a row, at these indices along the last dimension.

    row: the counter of the first state of the row.
    gamma: the step from each state to the next.
    """
    number = index // (2 * PAIRED) * PAIRED + index % PAIRED
    upper = mix(row + number * gamma)
    return jnp.where(index & PAIRED == 0, upper, lower_half(upper))


def mix(counter: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """Returns bits of which the upper 16 are random; `lower_half` gives 16 more.

    MurmurHash3 would also xor the upper half into the lower half, which only `lower_half` needs.
    """
    state = (counter ^ (counter >> 16)) * np.uint32(0x85EBCA6B)
    return (state ^ (state >> 13)) * np.uint32(0xC2B2AE35)


def lower_half(mixed: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """Returns bits whose upper 16 are the lower 16 of MurmurHash3's finalizer, from the result of `mix`."""
    return mixed ^ (mixed << 16)


def is_kept(bits: UInt32[Array, "..."], dropout_rate: float) -> Bool[Array, "..."]:
    """Returns which elements dropout keeps, by the upper 16 of their random bits.

    The comparison is signed, because a TPU has no unsigned one.
    """
    threshold = np.int32(_kept_of_65536(dropout_rate) * 2**16 - 2**31)
    return jax.lax.bitcast_convert_type(bits, jnp.int32) < threshold


def kept_fraction(dropout_rate: float) -> float:
    """Returns the fraction of elements that `is_kept`, 1 - `dropout_rate` rounded; 1 if the rate is 0."""
    return _kept_of_65536(dropout_rate) / 2**16 if dropout_rate else 1.0


def _kept_of_65536(dropout_rate: float) -> int:
    return min(max(round((1 - dropout_rate) * 2**16), 1), 2**16 - 1)
