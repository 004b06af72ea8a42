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
