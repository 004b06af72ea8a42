"""A dense layer with named dimensions, and its products in the shapes that a chip is fast at.

A v5e or v6e multiplies 128 columns or more at a time and BERT's heads have 64: a product that sums over heads one by
one, or makes their weights' gradients so, takes twice as long as it must. One that makes heads does not, and leaves
them as attention wants them in memory. So a product that makes heads keeps them apart, and every other one takes all
heads as one dimension. The compiler of v4 and v5p sees to that itself, and merging costs it transposes; a CPU loses
a percent. docs/performance.md has what it gave.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec, reshard
from jaxtyping import Array

from symbert_jax.batch import Array as AnyArray
from symbert_jax.chips import KINDS
from symbert_jax.model.layers import Sizes, factor, normal, parameter, use, zeros
from symbert_jax.sharding import device, spec

MERGING = ("v5e", "v6e")  # chips that multiply the columns of one head at half their rate


class Dense(nnx.Module):
    """y = x W + b, with W born N(0, 0.02) and b zero. `dims` says what goes in and out: "D->NH"."""

    def __init__(self, dims: str, sizes: Sizes, rngs: nnx.Rngs):
        self.inputs, self.outputs = dims.split("->")
        self.kernel = parameter(normal, self.inputs + self.outputs, sizes, rngs)
        self.bias = parameter(zeros, self.outputs, sizes, rngs)

    def __call__(self, x: Array, rows: str = "BT") -> Array:
        """Maps the trailing dimensions of x; `rows` are the letters of the leading ones."""
        weight, bias = self.kernel[...].astype(x.dtype), use(self.bias, x.dtype)
        product = Product(rows, self.inputs, self.outputs, weight.shape)
        if KINDS.get(device().device_kind) in MERGING:
            matrix = factor(_merge(weight, (0, len(self.inputs))), self.inputs[0] + self.outputs[0])
            y = multiply(product, x, matrix)
        else:
            y = product.apart(x, factor(weight, self.kernel.dims))
        return shift(y, bias) if device().platform == "tpu" else y + bias


class Product(NamedTuple):
    """The letters of x W, and the sizes of W's."""

    rows: str
    inputs: str
    outputs: str
    sizes: tuple[int, ...]

    def apart(self, x: Array, weight: Array) -> Array:
        """x W with every dimension apart; W may come as `merged` wants it."""
        weights = self.inputs + self.outputs
        weight = weight.reshape(self.sizes, out_sharding=PartitionSpec(*spec(weights), reduced={"data"}))
        equation = f"{self.rows}{self.inputs},{weights}->{self.rows}{self.outputs}"
        return jnp.einsum(equation, x, weight, out_sharding=spec(self.rows + self.outputs))

    def merged(self, x: Array, matrix: Array) -> Array:
        """The same by a matrix, which has one dimension for all inputs and one for all outputs."""
        rows = self.rows
        x = _merge(x, range(len(rows) + 1))
        y = jnp.einsum(f"{rows}i,io->{rows}o", x, matrix, out_sharding=spec(rows + self.outputs[0]))
        sizes = (*y.shape[:-1], *self.sizes[len(self.inputs) :])
        return y.reshape(sizes, out_sharding=spec(rows + self.outputs))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def multiply(product: Product, x: Array, matrix: Array) -> Array:
    """x W as `MERGING` chips like it, forward and backward; W as a matrix."""
    return (product.apart if len(product.outputs) > 1 else product.merged)(x, matrix)


def _multiply_backward(product: Product, factors: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, matrix = factors
    heads = product.apart if len(product.inputs) > 1 else product.merged
    (dx,) = jax.vjp(lambda x: heads(x, matrix), x)[1](dy)
    (dmatrix,) = jax.vjp(lambda matrix: product.merged(x, matrix), matrix)[1](dy)
    return dx, dmatrix


multiply.defvjp(lambda product, x, matrix: (multiply(product, x, matrix), (x, matrix)), _multiply_backward)


def _merge(x: AnyArray, starts: Sequence[int]) -> Array:
    """x with the dimensions from each of `starts` to the next as one, sharded as the first of them is."""
    held = jax.typeof(x).sharding.spec
    sizes = [math.prod(x.shape[start:end]) for start, end in zip(starts, [*starts[1:], x.ndim], strict=True)]
    return jnp.reshape(x, sizes, out_sharding=PartitionSpec(*(held[start] for start in starts)))


@jax.custom_vjp
def shift(y: Array, bias: Array) -> Array:
    """y + bias. The gradient of `bias` is a matrix product with ones: a TPU's units for products are faster adders."""
    return y + bias


def _shift_backward(dims: int, dy: Array) -> tuple[Array, Array]:
    rows = tuple(range(dy.ndim - dims))
    spec = jax.typeof(dy).sharding.spec
    ones = jax.lax.optimization_barrier(jnp.ones((*dy.shape[: len(rows)], 8), dy.dtype))
    ones = reshard(ones, PartitionSpec(*spec[: len(rows)], None))
    total = jax.lax.dot_general(
        dy,
        ones,
        ((rows, rows), ((), ())),
        preferred_element_type=jnp.float32,
        out_sharding=PartitionSpec(*spec[len(rows) :], None),
    )
    return dy, total[..., 0].astype(dy.dtype)


shift.defvjp(lambda y, bias: (y + bias, bias.ndim), _shift_backward)
