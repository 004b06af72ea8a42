"""The parts BERT is made of: a named-dimension dense layer, LayerNorm, dropout, and the stacking of layers."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import reshard
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

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


class Dense(nnx.Module):
    """y = x W + b, with W born N(0, 0.02) and b zero. `dims` says what goes in and out: "D->NH"."""

    def __init__(self, dims: str, sizes: Sizes, rngs: nnx.Rngs):
        self.inputs, self.outputs = dims.split("->")
        self.kernel = parameter(normal, self.inputs + self.outputs, sizes, rngs)
        self.bias = parameter(zeros, self.outputs, sizes, rngs)

    def __call__(self, x: Array, rows: str = "BT") -> Array:
        """Maps the trailing dimensions of x; `rows` are the letters of the leading ones."""
        equation = f"{rows}{self.inputs},{self.inputs}{self.outputs}->{rows}{self.outputs}"
        y = jnp.einsum(equation, x, use(self.kernel, x.dtype), out_sharding=spec(rows + self.outputs))
        return y + use(self.bias, x.dtype)


class LayerNorm(nnx.Module):
    """LayerNorm over the last dimension D with statistics in float32 and BERT's epsilon."""

    epsilon = 1e-12

    def __init__(self, sizes: Sizes, rngs: nnx.Rngs):
        self.scale = parameter(ones, "D", sizes, rngs)
        self.bias = parameter(zeros, "D", sizes, rngs)

    @jax.named_scope("norm")
    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        x32 = x.astype(jnp.float32)
        centred = x32 - x32.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        y = centred * jax.lax.rsqrt(variance + self.epsilon)
        return (y * use(self.scale, jnp.float32) + use(self.bias, jnp.float32)).astype(x.dtype)


def dropout(x: Array, rate: float, key: PRNGKeyArray | None) -> Array:
    """Zeroes a fraction `rate` of x and scales up the rest; without a key, or at rate 0, x as it is.

    Every random word serves two elements, whose 16 bits set the rate to within 1/131072; words are born with
    the sharding of x and are the same on every mesh.
    """
    if key is None or rate == 0:
        return x
    half = (*x.shape[:-1], -(-x.shape[-1] // 2))
    words = jax.random.bits(key, half, jnp.uint32, out_sharding=jax.typeof(x).sharding)
    bits = jnp.concatenate([words & 0xFFFF, words >> 16], axis=-1)[..., : x.shape[-1]]
    return jnp.where(bits < round((1 - rate) * 2**16), x * (1 / (1 - rate)), jnp.zeros_like(x))


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
