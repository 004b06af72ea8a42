"""Attention for rows of which all keys of a head fit in a TPU core's VMEM, as a Pallas kernel with dropout.

All scores of a query are at hand at once, so the softmax is an ordinary one, without the running maximum and the
rescaling of flash attention. Dropout draws the bits of `random_bits`, hence the mask that the `xla` kernel draws.

Arrays are transposed: queries, keys and values are [H, T] per head, with tokens along the 128 lanes. Heads of width 64
thus fill the lanes, in memory and in the matrix unit: O^T = V^T P^T streams 64 rows of V^T past square tiles of P^T,
while O = P V would fill half of each tile with V. Scores are [S, T]: the softmax reduces over sublanes, which costs no
more than additions of registers.

Symmetric attention has kernels of its own, which compute one exponential for both directions of a pair of tokens, where
`plan` says that this is faster.

Read in this order: `plan` (sizes and blocks), `tiles` (logits and dropout of a tile), `forward`, `backward`,
`symmetric`, `symmetric_forward`, `symmetric_backward`, and `attention`.
"""

from symbert_jax.model.short.attention import attention

__all__ = ["attention"]
