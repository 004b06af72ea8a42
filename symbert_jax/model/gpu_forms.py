"""Look-ups, products and layouts in the forms that an NVIDIA GPU computes fastest; other platforms use the plain form.

The forms differ from the plain ones only in how they round. XLA's compiler for an H100 needs no GPU; what it makes of a
training step of BERT-base in bfloat16 is the reason for each.
"""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
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


def multiply_by_table(x: Float[Array, "B M D"], table: Float[Array, "V D"]) -> Float[Array, "B M V"]:
    """Returns the products of x and the rows of `table` in float32.

    On a GPU, both products of the backward pass round the gradient of the result to the type of x, which a TPU does by
    itself. Otherwise, they would be products of float32 numbers, at half the speed.
    """
    return _multiply_by_table(x, table) if _is_gpu() else _table_product(x, table, jnp.float32)


def keeping_arguments(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Returns `function`; on a GPU, its backward pass computes it again from its arguments and keeps nothing else.

    A loop over layers writes what a layer keeps to arrays for all layers and reads it back. A function that casts to
    float32 would keep several arrays of this type. Without the loop, the compiler itself keeps the arguments.
    """
    return jax.checkpoint(function, prevent_cse=False) if _is_gpu() else function


def _is_gpu() -> bool:
    return device().platform == "gpu"


def _table_product(x: Array, table: Array, dtype: jax.typing.DTypeLike) -> Array:
    return jnp.einsum("BMD,VD->BMV", x, table, preferred_element_type=dtype, out_sharding=spec("BMV"))


@jax.custom_vjp
def _multiply_by_table(x: Array, table: Array) -> Array:
    return _table_product(x, table, jnp.float32)


def _multiply_by_table_backward(factors: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, _ = factors
    return jax.vjp(lambda x, table: _table_product(x, table, x.dtype), *factors)[1](gradient.astype(x.dtype))


_multiply_by_table.defvjp(lambda x, table: (_multiply_by_table(x, table), (x, table)), _multiply_by_table_backward)
