"""How many runs of a model fit into the memory of a device at once."""

import jax
import numpy as np

from symbert_jax.config import ModelConfig


def max_parallel_runs(
    model: ModelConfig, num_params: int, batch_size: int, length: int, max_predictions: int = 0, has_ema: bool = False
) -> int:
    """Returns how many runs fit into half the memory of a device, with `batch_size` rows of `length` tokens each.

    max_predictions: the tokens of a row that the head of a language model predicts.
    has_ema: whether a run has a moving average of its parameters.

    It is 1 if the memory is unknown, and on a CPU: three parallel runs of a model of 4 layers took as long as one after
    the other.
    """
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit") if device.platform != "cpu" else None
    if not limit:
        return 1
    # 16 bytes per parameter: itself, its gradient and two moments in float32; 4 more with its average. Korthikanti et
    # al. (2022), section 4, count the bytes of activations for elements of 2 bytes.
    rows = -(-batch_size // jax.sharding.get_mesh().shape["data"])
    activations = rows * length * model.layers * (34 * model.dim + 5 * model.heads * length)
    logits = rows * max_predictions * model.vocab_size  # in float32, with their softmax and their gradient
    run_bytes = (20 if has_ema else 16) * num_params + activations * np.dtype(model.dtype).itemsize / 2 + 12 * logits
    return max(1, int(limit / 2 / run_bytes))
