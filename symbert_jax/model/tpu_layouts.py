"""Products and sums in the forms that a TPU computes fastest; each has the result of its plain form.

The form is chosen when the program is traced: `Dense` merges heads if `should_merge_heads` says so; the other functions
choose by the platform. The numbers of cycles are the TPU compiler's estimates for a training step of BERT-base with 512
tokens a row, on a v5e core and without the splash kernel; docs/performance.md says how they were made.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec, reshard
from jaxtyping import Array, Float

from symbert_jax.batch import Array as AnyArray
from symbert_jax.chips import KINDS
from symbert_jax.model.parameters import gathered_with_deferred_psum
from symbert_jax.sharding import device, spec

MERGE_HEADS_ON = ("v5e", "v6e")
MERGE_HEADS_UP_TO = 16 * 512  # tokens per chip


def should_merge_heads(x: Float[Array, "B T *inputs"], dims: str) -> bool:
    """Whether `multiply_with_merged_heads` is faster for x and a kernel whose dimensions are `dims`, such as "DNH".

    The matrix unit of a v5e or v6e is 128 wide or more, and a head of BERT has 64. A contraction over one head at a
    time, or a kernel gradient computed per head, half-fills the unit: a backward product of q, k or v takes 80,000
    cycles, with merged heads 45,000. On 16 chips, merging shortens a step from 27.6 M to 26.1 M cycles with 8 rows a
    chip, and from 53.8 M to 52.0 M with 16. In a model of four layers it gains 1% with 24 rows. With 32 rows, where
    activations no longer fit the on-chip memory, the transposes before merged products cost more than these gain:
    119.8 M become 123.1 M. The limit ignores the number of chips, although on 4 chips merging costs 4% with 16 rows a
    chip (four layers). The compilers for v4 and v5p merge heads themselves; on these chips, merging here costs 5%.
    """
    has_heads = len(dims) > 2
    if not has_heads or KINDS.get(device().device_kind) not in MERGE_HEADS_ON:
        return False
    rows, length = jax.typeof(x).sharding.shard_shape(x.shape)[:2]
    return rows * length <= MERGE_HEADS_UP_TO


def multiply_with_merged_heads(
    x: Array, kernel: Array, inputs: str, outputs: str, batch_dims: str
) -> Float[Array, "B T *outputs"]:
    """Returns x W; two of the three products of its forward and backward pass have N and H as one dimension.

    The one that yields heads (y of D->NH, dx of NH->D) is computed per head: it leaves them in the memory layout that
    attention reads, while a merged product would be followed by transposes.
    The gradient of the kernel is reduced over `data` in its merged form: 36 collectives a step instead of 81.
    """
    matrix = gathered_with_deferred_psum(_merge(kernel, (0, len(inputs))), inputs[0] + outputs[0])
    return _multiply(Product(batch_dims, inputs, outputs, kernel.shape), x, matrix)


class Product(NamedTuple):
    """The einsum letters of x W, and the shape of W with separate heads. The methods take W with its heads merged."""

    batch_dims: str
    inputs: str
    outputs: str
    kernel_shape: tuple[int, ...]

    def per_head(self, x: Array, matrix: Array) -> Array:
        kernel_dims = self.inputs + self.outputs
        kernel = matrix.reshape(self.kernel_shape, out_sharding=PartitionSpec(*spec(kernel_dims), reduced={"data"}))
        x_dims, y_dims = self.batch_dims + self.inputs, self.batch_dims + self.outputs
        return jnp.einsum(f"{x_dims},{kernel_dims}->{y_dims}", x, kernel, out_sharding=spec(y_dims))

    def heads_merged(self, x: Array, matrix: Array) -> Array:
        batch_dims = self.batch_dims
        x = _merge(x, range(len(batch_dims) + 1))
        y = jnp.einsum(f"{batch_dims}i,io->{batch_dims}o", x, matrix, out_sharding=spec(batch_dims + self.outputs[0]))
        shape = (*y.shape[:-1], *self.kernel_shape[len(self.inputs) :])
        return y.reshape(shape, out_sharding=spec(batch_dims + self.outputs))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _multiply(product: Product, x: Array, matrix: Array) -> Array:
    return (product.per_head if len(product.outputs) > 1 else product.heads_merged)(x, matrix)


def _multiply_backward(product: Product, factors: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, matrix = factors
    multiply = product.per_head if len(product.inputs) > 1 else product.heads_merged
    (dx,) = jax.vjp(lambda x: multiply(x, matrix), x)[1](dy)
    (dmatrix,) = jax.vjp(lambda matrix: product.heads_merged(x, matrix), matrix)[1](dy)
    return dx, dmatrix


_multiply.defvjp(lambda product, x, matrix: (_multiply(product, x, matrix), (x, matrix)), _multiply_backward)


def _merge(x: AnyArray, starts: Sequence[int]) -> Array:
    """Merges the dimensions from each of `starts` up to the next into one, sharded like the first of them."""
    axes = jax.typeof(x).sharding.spec
    shape = [math.prod(x.shape[start:end]) for start, end in zip(starts, [*starts[1:], x.ndim], strict=True)]
    return jnp.reshape(x, shape, out_sharding=PartitionSpec(*(axes[start] for start in starts)))


def multiply_by_pair(q: Float[Array, "B S N G"], pair: Float[Array, "N Q G"]) -> Float[Array, "B S N Q"]:
    """Returns the keys k = P q of pairwise attention, computed on a TPU with a copy of P for each row.

    pair: the matrix P of each head.

    With heads as the only batch dimension of this product, the compiler keeps q and k in another layout than the
    scores need and transposes them: 52.0 M cycles a step with XLA attention and 8 rows a chip, 43.4 M with the copies
    (0.8 MB a layer). With splash attention there is no difference, and a CPU is faster without the copies.
    """
    dims = "NQG"
    if device().platform == "tpu":
        dims = "BNQG"
        pair = jnp.broadcast_to(pair, (len(q), *pair.shape), out_sharding=spec(dims))
    return jnp.einsum(f"BSNG,{dims}->BSNQ", q, pair, out_sharding=spec("BSNQ"))


def add_bias(y: Array, bias: Array) -> Array:
    """Returns y + bias. On a TPU the gradient of the bias is a matrix product of dy with ones.

    The matrix units sum over rows faster than the vector units: together with one-pass LayerNorm moments this
    shortens a step from 33.1 M to 27.6 M cycles (16 chips, 8 rows a chip). A CPU is faster with a plain sum. On a GPU
    the gradient is a sum in float32, where the compiler would round each partial sum to bfloat16.
    """
    return y + bias if device().platform == "cpu" else _add_bias(y, bias)


@jax.custom_vjp
def _add_bias(y: Array, bias: Array) -> Array:
    return y + bias


def _add_bias_backward(bias_dims: int, dy: Array) -> tuple[Array, Array]:
    summed = tuple(range(dy.ndim - bias_dims))
    if device().platform == "gpu":
        return dy, dy.sum(summed, dtype=jnp.float32).astype(dy.dtype)
    partition = jax.typeof(dy).sharding.spec
    ones = jax.lax.optimization_barrier(jnp.ones((*dy.shape[: len(summed)], 8), dy.dtype))
    ones = reshard(ones, PartitionSpec(*partition[: len(summed)], None))
    total = jax.lax.dot_general(
        dy,
        ones,
        ((summed, summed), ((), ())),
        preferred_element_type=jnp.float32,
        out_sharding=PartitionSpec(*partition[len(summed) :], None),
    )
    return dy, total[..., 0].astype(dy.dtype)


_add_bias.defvjp(lambda y, bias: (y + bias, bias.ndim), _add_bias_backward)
