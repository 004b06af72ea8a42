"""Finds the documents and the padding of packed rows. The devices do this, so no boundaries are stored or sent."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from symbert_jax.batch import Array as AnyArray


def find_documents(tokens: Int[AnyArray, "B T"]) -> tuple[Int[Array, "B T"], Int[Array, "B T"]]:
    """Returns for each token the number of its document in the row, from 1, and its position in this document, from 0.

    A row is [CLS] … [SEP] … [SEP], so its last token is [SEP]. No text contains [SEP], and no [SEP] is masked.
    A document ends with its [SEP]. The first one begins with [CLS], the others with their own first token. The [SEP]
    that closes the row ends the last document, or is a document by itself if the row was cut after a [SEP]. Padding,
    with the [SEP] that closes the row, is a document by itself.
    """
    ends = tokens == tokens[:, -1:]
    # The last token of a row is an end; rolled to the front, it makes the first token a start.
    starts = jnp.roll(ends, 1, axis=1)
    columns = jax.lax.broadcasted_iota(jnp.int32, tokens.shape, 1, out_sharding=jax.typeof(ends).sharding)
    return jnp.cumsum(starts, axis=1), columns - jax.lax.cummax(jnp.where(starts, columns, 0), axis=1)


def separate_padding(tokens: Int[AnyArray, "B T"], pad: int) -> Int[Array, "B T"]:
    """Returns 1 for each token of a document, and 0 for padding and the [SEP] after it, which closes the row.

    pad: the id of [PAD].
    """
    is_pad = tokens == pad
    return 1 - (is_pad | jnp.roll(is_pad, 1, axis=1)).astype(jnp.int32)


def find_segments(
    tokens: Int[AnyArray, "B T"], cross_document: bool, pad: int | None
) -> tuple[Int[Array, "B T"] | None, Int[Array, "B T"] | None]:
    """Returns the segment and the position id of each token. A token attends to those of its own segment.

    None instead of segments: to all tokens of its row. None instead of position ids: its position in the row.

    cross_document: whether a token attends to all documents of its row, or only to its own.
    pad: the id of [PAD] if rows may have padding, to which no token of a document attends.
    """
    if not cross_document:
        return find_documents(tokens)
    return None if pad is None else separate_padding(tokens, pad), None
