"""The parts BERT is made of: its parameters, LayerNorm, dropout, GELU, and the stacking of layers."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec, reshard
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray, UInt32

from symbert_jax.batch import Array as AnyArray
from symbert_jax.sharding import spec

Init = Callable[..., Array]  # of key, shape, dtype
Sizes = Mapping[str, int]
Module = TypeVar("Module", bound=nnx.Module)

# BERT (2018) draws weights from a normal of this deviation; the paper's code draws it untruncated.
normal = jax.nn.initializers.normal(0.02)
zeros = jax.nn.initializers.zeros
ones = jax.nn.initializers.ones


def parameter(init: Init, dims: str, sizes: Sizes, rngs: nnx.Rngs) -> nnx.Param:
    """A float32 parameter whose dimensions carry the letters `dims`; `sharding.py` places it by them."""
    return nnx.Param(init(rngs(), tuple(sizes[dim] for dim in dims), jnp.float32), dims=dims)


def use(weight: nnx.Param, dtype: DTypeLike) -> Array:
    """The parameter ready for arithmetic: cast first, then gathered where it rests sharded (FSDP)."""
    return reshard(weight[...].astype(dtype), spec(weight.dims))


def factor(weight: AnyArray, dims: str) -> Array:
    """An array of weights that is only multiplied with or looked up in, gathered as `use` does it.

    Its gradients of all uses meet before the devices sum them, once, to where the parameter rests (with FSDP a
    reduce-scatter).
    """
    return reshard(weight, PartitionSpec(*spec(dims), reduced={"data"}))


class LayerNorm(nnx.Module):
    """LayerNorm over the last dimension D with statistics in float32 and BERT's epsilon."""

    epsilon = 1e-12

    def __init__(self, sizes: Sizes, rngs: nnx.Rngs):
        self.scale = parameter(ones, "D", sizes, rngs)
        self.bias = parameter(zeros, "D", sizes, rngs)

    @jax.named_scope("norm")
    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        x32 = x.astype(jnp.float32)
        mean = x32.mean(-1, keepdims=True)
        variance = jnp.maximum(jnp.square(x32).mean(-1, keepdims=True) - jnp.square(mean), 0)  # in the same pass
        y = (x32 - mean) * jax.lax.rsqrt(variance + self.epsilon)
        return (y * use(self.scale, jnp.float32) + use(self.bias, jnp.float32)).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _drop(x: Array, rate: float, key: PRNGKeyArray) -> Array:
    kept = _bits(key, x) < np.uint32(min(round((1 - rate) * 2**32), 2**32 - 1))
    return jnp.where(kept, x * (1 / (1 - rate)), jnp.zeros_like(x))


# The backward pass draws the bits again, which is less work than to keep them.
_drop.defvjp(lambda x, rate, key: (_drop(x, rate, key), key), lambda rate, key, dy: (_drop(dy, rate, key), None))


def dropout(x: Array, rate: float, key: PRNGKeyArray | None) -> Array:
    """Zeroes a fraction `rate` of x and scales up the rest; without a key, or at rate 0, x as it is."""
    return x if key is None or rate == 0 else _drop(x, rate, key)


def _bits(key: PRNGKeyArray, like: Array) -> UInt32[Array, "..."]:
    """32 random bits an element, born with the sharding of `like` and the same on every mesh.

    SplitMix (Steele, Lea, Flood, 2014, figure 17) in 32 bits: element n gets mix(seed + n gamma) with the finalizer
    of MurmurHash3. JAX's own generators cost several times the arithmetic (docs/performance.md); what stands on
    their quality, keys, initialisation and the order of data, stays theirs.
    """
    seed, gamma = jax.random.key_data(key)
    gamma |= 1
    state = jnp.broadcast_to(seed, ())
    for dim, (size, axis) in enumerate(zip(like.shape, jax.typeof(like).sharding.spec, strict=True)):
        stride = math.prod(like.shape[dim + 1 :]) % 2**32
        place = jax.lax.broadcasted_iota(jnp.uint32, (size,), 0, out_sharding=PartitionSpec(axis))
        state = state[..., None] + place * (gamma * np.uint32(stride))
    state = (state ^ (state >> 16)) * np.uint32(0x85EBCA6B)
    state = (state ^ (state >> 13)) * np.uint32(0xC2B2AE35)
    return state ^ (state >> 16)


@jax.custom_vjp
def gelu(x: Array) -> Array:
    """x Phi(x), exactly (Hendrycks, Gimpel, 2016). The backward pass keeps x alone and computes the rest anew."""
    return (0.5 * x * (1 + jax.lax.erf(x * np.sqrt(0.5)))).astype(x.dtype)


def _gelu_backward(x: Array, dy: Array) -> tuple[Array]:
    phi = jnp.exp(-0.5 * jnp.square(x)) * np.sqrt(0.5 / np.pi)
    return ((dy * (0.5 * (1 + jax.lax.erf(x * np.sqrt(0.5))) + x * phi)).astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


def stack(make: Callable[[nnx.Rngs], Module], count: int, rngs: nnx.Rngs) -> Module:
    """`count` independently born layers as one module whose parameters lead with the dimension L."""
    keys = jax.random.split(rngs(), count)
    states = jax.vmap(lambda key: nnx.state(make(nnx.Rngs(key))))(keys)
    return nnx.merge(nnx.graphdef(nnx.eval_shape(lambda: make(nnx.Rngs(0)))), states)
