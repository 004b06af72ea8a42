"""Random bits that are the same on every mesh and in every kernel, because they depend only on an element's index.

SplitMix (Steele, Lea, Flood, 2014, figure 17) in 32 bits: state n is mix(seed + n gamma), where mix is the finalizer of
MurmurHash3. JAX's own generators cost several times the arithmetic (docs/performance.md). They still draw keys and
initial parameters, which need better random numbers.

A state decides for two elements with 16 bits each: for element s of the last dimension with s mod 128 < 64 by its
upper half, and for element s + 64 by its lower half. So dropout rates are multiples of 2^-16, and a kernel computes one
state for two decisions, in registers whose rows are 64 elements apart.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, PRNGKeyArray, UInt32

PAIRED = 64  # elements s and s + PAIRED share a state


def keep(key: PRNGKeyArray, rate: float, like: Array) -> Bool[Array, "..."]:
    """Returns a mask that is false for a fraction `rate` of the elements of `like`, sharded like it."""
    seed, gamma = seed_and_gamma(key)
    state = jnp.broadcast_to(seed, ())
    *leading, _ = strides = state_strides(like.shape)
    for size, axis, stride in zip(like.shape, jax.typeof(like).sharding.spec, strides, strict=True):
        index = jax.lax.broadcasted_iota(jnp.uint32, (size,), 0, out_sharding=PartitionSpec(axis))
        is_last = state.ndim == len(leading)
        number = state_number(index) if is_last else index * np.uint32(stride)
        state = state[..., None] + number * gamma
    upper = mix(state)
    return is_kept(jnp.where(index & PAIRED == 0, upper, lower_half(upper)), rate)


def seed_and_gamma(key: PRNGKeyArray) -> UInt32[Array, "2"]:
    """Returns the two parameters of a generator; gamma is odd."""
    return jax.random.key_data(key) | jnp.array([0, 1], jnp.uint32)


def state_strides(shape: tuple[int, ...]) -> list[int]:
    """Returns by how much the number of the state grows, modulo 2^32, with the index along each dimension but the last.

    The number that is returned for the last dimension is 1, although two elements share a state.
    """
    states = -(-shape[-1] // (2 * PAIRED)) * PAIRED  # of a row
    sizes = [*shape[1:-1], states] if len(shape) > 1 else []
    return [math.prod(sizes[dim:]) % 2**32 for dim in range(len(sizes))] + [1]


def state_number(index: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """Returns the number, within its row, of the state of an element of the last dimension."""
    return index // (2 * PAIRED) * PAIRED + index % PAIRED


def mix(state: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """Returns bits of which the upper 16 are random; `lower_half` gives 16 more.

    MurmurHash3 would also xor the upper half into the lower half, which only `lower_half` needs.
    """
    state = (state ^ (state >> 16)) * np.uint32(0x85EBCA6B)
    return (state ^ (state >> 13)) * np.uint32(0xC2B2AE35)


def lower_half(mixed: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """Returns bits whose upper 16 are the lower 16 of MurmurHash3's finalizer, from the result of `mix`."""
    return mixed ^ (mixed << 16)


def is_kept(bits: UInt32[Array, "..."], rate: float) -> Bool[Array, "..."]:
    """Returns whether the upper 16 of `bits` are in the fraction 1 - `rate` of all numbers of 16 bits.

    The comparison is signed, because a TPU has no unsigned one.
    """
    return jax.lax.bitcast_convert_type(bits, jnp.int32) < np.int32(_kept_of_65536(rate) * 2**16 - 2**31)


def kept_fraction(rate: float) -> float:
    """Returns the fraction of elements for which `is_kept` is true, 1 - `rate` rounded; 1 if the rate is 0."""
    return _kept_of_65536(rate) / 2**16 if rate else 1.0


def _kept_of_65536(rate: float) -> int:
    return min(max(round((1 - rate) * 2**16), 1), 2**16 - 1)
