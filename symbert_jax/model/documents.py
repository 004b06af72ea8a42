"""Finds the documents of a packed row on the device, by their [SEP]: nothing about them is stored or sent."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from symbert_jax.batch import Array as AnyArray


def find_documents(tokens: Int[AnyArray, "B T"]) -> tuple[Int[Array, "B T"], Int[Array, "B T"]]:
    """Returns the number of each token's document in its row, from 1, and the token's position in it, from 0.

    A row is [CLS] … [SEP] … [SEP]. Its last token is the id of [SEP]; no text contains one, and masking spares them. A
    document ends with its [SEP]. [CLS] has position 0 of the first document, the others begin with their own first
    token. The [SEP] that closes the row ends the last document, or is one itself if the row was cut after a [SEP].
    """
    ends = tokens == tokens[:, -1:]
    starts = jnp.roll(ends, 1, axis=1)  # the first token of a row follows an end, the last token of the row
    position_ids = jax.lax.broadcasted_iota(jnp.int32, tokens.shape, 1, out_sharding=jax.typeof(ends).sharding)
    return jnp.cumsum(starts, axis=1), position_ids - jax.lax.cummax(jnp.where(starts, position_ids, 0), axis=1)
