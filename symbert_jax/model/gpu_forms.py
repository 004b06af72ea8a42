"""Look-ups, products and layouts in the forms that an NVIDIA GPU computes fastest; other platforms use the plain form.

The forms differ from the plain ones only in how they round. XLA's compiler for an H100 needs no GPU; what it makes of a
training step of BERT-base in bfloat16 is the reason for each.
"""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from symbert_jax.batch import Array as AnyArray
from symbert_jax.sharding import device, spec

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def look_up(table: Float[Array, "V D"], ids: Int[AnyArray, "B T"]) -> Float[Array, "B T D"]:
    """Returns the rows of `table` at `ids`. On a GPU, the gradients of a row are summed in float32.

    An H100 cannot add to bfloat16 atomically, so the compiler makes each addition a loop that reads, adds and tries to
    write, until no other thread has written in between. The rows of [MASK], of a frequent token or of a token type get
    the gradients of thousands of tokens at once, and their threads spend the step in this loop. Float32 numbers are
    added by the memory itself, four at a time.
    """
    wide = table.astype(jnp.float32) if _is_gpu() else table
    return wide.at[ids].get(out_sharding=spec("BTD")).astype(table.dtype)


def in_row_major_order(x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """Returns x; on a GPU, x and its gradient are kept in memory in the order of their dimensions.

    The gradient of the position embeddings is a sum over B, for which the compiler wants B to be the fastest dimension.
    Without a loop over layers, it gives all activations between the layers this order, and transposes them for every
    matrix product.
    """
    return with_layout_constraint(x, Layout((0, 1, 2))) if _is_gpu() else x


def einsum_in_float32(equation: str, x: Array, y: Array) -> Array:
    """Returns the product of two arrays in float32. The letters of `equation` are those of `sharding.spec`.

    On a GPU, the products of the backward pass round the gradient of the result to the type of x and y, as a TPU does
    anyway. Otherwise, they would be products of float32 numbers, at half the speed or less.
    """
    return _einsum_rounding_gradient(equation, x, y) if _is_gpu() else _einsum(equation, x, y, jnp.float32)


def keeping_arguments(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Returns `function`; on a GPU, its backward pass computes it again from its arguments and keeps nothing else.

    A loop over layers writes what a layer keeps to arrays for all layers and reads it back. A function that casts to
    float32 would keep several arrays of this type. Without the loop, the compiler itself keeps the arguments.
    """
    return jax.checkpoint(function, prevent_cse=False) if _is_gpu() else function


def _is_gpu() -> bool:
    return device().platform == "gpu"


def _einsum(equation: str, x: Array, y: Array, dtype: DTypeLike) -> Array:
    outputs = equation.partition("->")[2]
    return jnp.einsum(equation, x, y, preferred_element_type=dtype, out_sharding=spec(outputs))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _einsum_rounding_gradient(equation: str, x: Array, y: Array) -> Array:
    return _einsum(equation, x, y, jnp.float32)


def _einsum_backward(equation: str, factors: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    dtype = factors[0].dtype
    return jax.vjp(lambda x, y: _einsum(equation, x, y, dtype), *factors)[1](gradient.astype(dtype))


_einsum_rounding_gradient.defvjp(
    lambda equation, x, y: (_einsum_rounding_gradient(equation, x, y), (x, y)), _einsum_backward
)
