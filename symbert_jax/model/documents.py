"""The documents of a packed row, told apart on the device by their [SEP]: nothing about them is stored or sent."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from symbert_jax.batch import Array as AnyArray


def documents(tokens: Int[AnyArray, "B T"]) -> tuple[Int[Array, "B T"], Int[Array, "B T"]]:
    """Which document of its row each token is of, counted from 1, and where in that document it stands, from 0.

    A row is [CLS] … [SEP] … [SEP]. Its last token says what [SEP] is; text cannot forge one and masking leaves them
    alone. A document ends with its [SEP]. [CLS] stands at place 0 of the first, the others begin with a word of
    their own; the [SEP] that closes the row ends the last, or is one by itself where the row was cut behind a [SEP].
    """
    ends = tokens == tokens[:, -1:]
    starts = jnp.roll(ends, 1, axis=1)  # the first token follows the end of another row
    position_ids = jax.lax.broadcasted_iota(jnp.int32, tokens.shape, 1, out_sharding=jax.typeof(ends).sharding)
    return jnp.cumsum(starts, axis=1), position_ids - jax.lax.cummax(jnp.where(starts, position_ids, 0), axis=1)
