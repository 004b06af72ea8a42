"""Attention as a function with a gradient of its own."""

import functools

import jax
from jaxtyping import Array, Float, Int, UInt32

from symbert_jax.model.triton.backward import backward
from symbert_jax.model.triton.forward import forward
from symbert_jax.model.triton.tiling import Tiling


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7, 8))
def attention(
    q: Float[Array, "B T N Q"],
    k: Float[Array, "B T N Q"],
    v: Float[Array, "B T N H"],
    segments: Int[Array, "B T"] | None,
    states: UInt32[Array, "B N 2"] | None,
    dropout_rate: float,
    window: int,
    tiling: Tiling,
    interpret: bool,
) -> Float[Array, "B T N H"]:
    """Computes softmax(q . k / sqrt(Q)) v; the widths Q and H are powers of two, at least 16, T is a multiple of 16.

    states: for each head, the counter of the first state of `random_bits` and the step to the next counter; None means
      no dropout.
    window: of `windows`. A program leaves out the tiles that are outside the windows of all its tokens.
    interpret: runs the kernel without a GPU, slowly.
    """
    return forward(q, k, v, segments, states, dropout_rate, window, tiling, interpret)[0]


attention.defvjp(forward, backward)
