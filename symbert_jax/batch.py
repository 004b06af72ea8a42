"""The types of batches, which `data` and `model` share: numpy arrays on the host, jax arrays on the devices."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

Array = jax.Array | np.ndarray


class MlmBatch(NamedTuple):
    """Rows for masked language modelling, with at most M predictions a row."""

    tokens: Int[Array, "B T"]  # token ids after masking
    positions: Int[Array, "B M"]  # the positions of the tokens to predict, padded with 0
    targets: Int[Array, "B M"]  # the ids of these tokens before masking
    weights: Float[Array, "B M"]  # 1 for a token to predict, 0 for padding


class GlueBatch(NamedTuple):
    """Sentences, or pairs of sentences."""

    tokens: Int[Array, "B T"]  # [CLS] first [SEP] or [CLS] first [SEP] second [SEP], then padding
    lengths: Int[Array, " B"]  # the number of tokens in each row, without padding
    second_starts: Int[Array, " B"]  # where the second sentence starts; the row's length if there is none
    labels: Float[Array, " B"]  # the class, or the value of a regression; 0 if unlabelled
    weights: Float[Array, " B"]  # 1, or 0 for a row that pads the batch
