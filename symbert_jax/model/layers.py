"""The parts of an encoder: dense layers, LayerNorm, dropout, GELU, and the stacking of equal layers."""

import functools
import math
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from symbert_jax.config import ModelConfig
from symbert_jax.model import gpu_forms, random_bits, tpu_layouts
from symbert_jax.model.parameters import (
    Sizes,
    gathered,
    gathered_with_deferred_psum,
    normal,
    ones,
    parameter,
    sizes,
    zeros,
)
from symbert_jax.sharding import spec

Module = TypeVar("Module", bound=nnx.Module)


class Dense(nnx.Module):
    """y = x W + b, initially W ~ N(0, `std`²) and b = 0. `dims` are the letters of inputs and outputs: "D->NH"."""

    def __init__(self, dims: str, sizes: Sizes, rngs: nnx.Rngs, std: float, bias: bool = True):
        self.inputs, self.outputs = dims.split("->")
        self.kernel = parameter(normal(std), self.inputs + self.outputs, sizes, rngs)
        self.bias = parameter(zeros, self.outputs, sizes, rngs) if bias else None

    def __call__(self, x: Array, batch_dims: str = "BT") -> Array:
        """Maps the trailing dimensions of x; `batch_dims` are the letters of the leading ones."""
        x_dims, kernel_dims, y_dims = batch_dims + self.inputs, self.kernel.dims, batch_dims + self.outputs
        kernel = self.kernel[...].astype(x.dtype)
        if tpu_layouts.should_merge_heads(x, kernel_dims):
            y = tpu_layouts.multiply_with_merged_heads(x, kernel, self.inputs, self.outputs, batch_dims)
        else:
            kernel = gathered_with_deferred_psum(kernel, kernel_dims)
            y = jnp.einsum(f"{x_dims},{kernel_dims}->{y_dims}", x, kernel, out_sharding=spec(y_dims))
        return y if self.bias is None else tpu_layouts.add_bias(y, gathered(self.bias, x.dtype))


class LayerNorm(nnx.Module):
    """LayerNorm over the last dimension D with statistics in float32."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.epsilon = config.norm_eps
        self.scale = parameter(ones, "D", sizes(config), rngs)
        self.bias = parameter(zeros, "D", sizes(config), rngs) if config.bias else None

    @jax.named_scope("norm")
    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        bias = None if self.bias is None else gathered(self.bias, jnp.float32)
        return gpu_forms.keeping_arguments(self.normalize)(x, gathered(self.scale, jnp.float32), bias)

    def normalize(
        self, x: Float[Array, "*rows D"], scale: Float[Array, "D"], bias: Float[Array, "D"] | None
    ) -> Float[Array, "*rows D"]:
        """Returns the result for these parameters."""
        x32 = x.astype(jnp.float32)
        mean = x32.mean(-1, keepdims=True)
        # One pass over x computes the mean and the second moment, from which the variance follows.
        variance = jnp.maximum(jnp.square(x32).mean(-1, keepdims=True) - jnp.square(mean), 0)
        y = (x32 - mean) * jax.lax.rsqrt(variance + self.epsilon) * scale
        return (y if bias is None else y + bias).astype(x.dtype)


def dropout(x: Array, rate: float, key: PRNGKeyArray | None) -> Array:
    """Zeroes a fraction `rate` of x and scales the rest by 1 / (1 - rate). If `key` is None or `rate` 0, returns x.

    `rate` is rounded to a multiple of 2^-16.
    """
    return x if key is None or rate == 0 else _dropout(x, rate, key)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _dropout(x: Array, rate: float, key: PRNGKeyArray) -> Array:
    kept = random_bits.keep(key, rate, like=x)
    return jnp.where(kept, x * (1 / random_bits.kept_fraction(rate)), jnp.zeros_like(x))


# The backward pass draws the bits again, which costs less than to keep them.
_dropout.defvjp(
    lambda x, rate, key: (_dropout(x, rate, key), key),
    lambda rate, key, dy: (_dropout(dy, rate, key), None),
)


def split_key(key: PRNGKeyArray | None, count: int) -> tuple[PRNGKeyArray | None, ...]:
    """Splits a dropout key into `count` keys; None becomes `count` times None."""
    return (None,) * count if key is None else tuple(jax.random.split(key, count))


@jax.custom_vjp
def gelu(x: Array) -> Array:
    """Returns x Phi(x), exact (Hendrycks, Gimpel, 2016), computed in float32 and rounded once.

    The backward pass keeps only x and is float32 too: in bfloat16, 1 + erf(x) loses all its digits where x is far
    below 0, and a v5e, which has bfloat16 arithmetic only in matrix products, would be no faster.
    """
    x32 = x.astype(jnp.float32)
    return (x32 * _normal_cdf(x32)).astype(x.dtype)


def _gelu_backward(x: Array, dy: Array) -> tuple[Array]:
    x32 = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * jnp.square(x32)) * math.sqrt(0.5 / math.pi)
    return ((dy * (_normal_cdf(x32) + x32 * density)).astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


def _normal_cdf(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))


def stack(make: Callable[[nnx.Rngs], Module], count: int, rngs: nnx.Rngs) -> Module:
    """Creates `count` layers with independent initial values, as one module whose parameters have a leading axis L."""
    keys = jax.random.split(rngs(), count)
    states = jax.vmap(lambda key: nnx.state(make(nnx.Rngs(key))))(keys)
    return nnx.merge(nnx.graphdef(nnx.eval_shape(lambda: make(nnx.Rngs(0)))), states)
