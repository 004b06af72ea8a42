"""The types that data and model share. Host code fills them with numpy, device code sees jax arrays."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

Array = jax.Array | np.ndarray


class MlmBatch(NamedTuple):
    """Rows for masked language modelling, M places for masked positions a row."""

    tokens: Int[Array, "B T"]  # ids after masking
    positions: Int[Array, "B M"]  # where the model must predict; 0 in an unused place
    targets: Int[Array, "B M"]  # the ids that stood there
    weights: Float[Array, "B M"]  # 1 for a masked position, 0 for an unused place


class GlueBatch(NamedTuple):
    """Sentences or pairs of them with what a task says of each."""

    tokens: Int[Array, "B T"]  # [CLS] first [SEP] or [CLS] first [SEP] second [SEP], then padding
    lengths: Int[Array, " B"]  # real tokens of a row
    seconds: Int[Array, " B"]  # where the second sentence begins; the length where there is none
    labels: Float[Array, " B"]  # the class, or the value of a regression
    weights: Float[Array, " B"]  # 1, or 0 for a row that only fills the batch
