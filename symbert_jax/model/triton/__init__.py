"""Attention for NVIDIA GPUs with the dropout of `random_bits`: flash attention in Pallas, which Triton compiles.

The method is FlashAttention-2 (Dao, 2023). In the forward pass, a program holds a tile of queries and reads the keys
tile by tile, so that no score is written to memory. It keeps the output and one number per query, the logarithm of the
softmax's denominator. From these, the backward pass computes the probabilities again: one kernel for the gradients of
keys and values, whose programs hold a tile of keys, and one for the gradient of the queries.

The mask of dropout is not written to memory either. Every program draws the bits of its tiles from their positions in
the global array B N T S, so the mask is that of `random_bits.keep` on every mesh.

Logarithms and exponentials have base 2, which a GPU computes faster.

Read in this order: `tiling` (the sizes of tiles), `programs` (the parts of arrays that a program gets), `tiles` (scores
and dropout of a tile), `forward`, `backward`, and `attention`.
"""

from symbert_jax.model.triton.attention import attention
from symbert_jax.model.triton.tiling import Tile, Tiling, choose_tiling

__all__ = ["Tile", "Tiling", "attention", "choose_tiling"]
