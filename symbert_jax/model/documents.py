"""Finds the documents of packed rows by their [SEP]. The devices do this, so no boundaries are stored or sent."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from symbert_jax.batch import Array as AnyArray


def find_documents(tokens: Int[AnyArray, "B T"]) -> tuple[Int[Array, "B T"], Int[Array, "B T"]]:
    """Returns for each token the number of its document in the row, from 1, and its position in this document, from 0.

    A row is [CLS] … [SEP] … [SEP], so its last token is [SEP]. No text contains [SEP], and no [SEP] is masked.
    A document ends with its [SEP]. The first one begins with [CLS], the others with their own first token. The [SEP]
    that closes the row ends the last document, or is a document by itself if the row was cut after a [SEP].
    """
    ends = tokens == tokens[:, -1:]
    # The last token of a row is an end; rolled to the front, it makes the first token a start.
    starts = jnp.roll(ends, 1, axis=1)
    columns = jax.lax.broadcasted_iota(jnp.int32, tokens.shape, 1, out_sharding=jax.typeof(ends).sharding)
    return jnp.cumsum(starts, axis=1), columns - jax.lax.cummax(jnp.where(starts, columns, 0), axis=1)
