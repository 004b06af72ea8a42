"""Model FLOPs: what the mathematics of a training step costs, not what a program happens to execute."""

from symbert_jax.config import ModelConfig


def train_flops(model: ModelConfig, batch_size: int, max_predictions: int) -> float:
    """FLOPs of forward and backward of `batch_size` rows with `max_predictions` predicted positions each.

    Counts matrix products, 2 FLOPs a multiply-add, the backward pass as twice the forward one; nothing
    that is recomputed. Attention is between all tokens of a row, also where documents do not see each other.
    """
    t, d, f = model.length, model.dim, model.mlp_dim
    head = d // model.heads
    projections = {"standard": 4 * d * d, "symmetric": 3 * d * d, "pairwise": 3 * d * d + d * head}
    layer = t * (projections[model.attention] + 2 * d * f)
    mlm_head = max_predictions * (d * d + d * model.vocab_size)
    return 6.0 * batch_size * (model.layers * layer + mlm_head) + 3 * attention_flops(model, batch_size)


def attention_flops(model: ModelConfig, batch_size: int) -> float:
    """FLOPs, forward alone, of what attention multiplies with each other: queries, keys, probabilities and values."""
    return 4.0 * batch_size * model.layers * model.length**2 * model.dim
