"""Model FLOPs: the cost of the mathematics of a training step, not of the operations that a program executes."""

from symbert_jax.config import ModelConfig
from symbert_jax.model.attention import find_variant
from symbert_jax.model.parameters import sizes


def train_flops(model: ModelConfig, batch_size: int, max_predictions: int) -> float:
    """Returns the FLOPs of forward and backward pass of `batch_size` rows with `max_predictions` predictions each.

    Counts matrix products with 2 FLOPs per multiply-add, the backward pass as twice the forward pass, and nothing
    that is recomputed. Attention is counted between all tokens of a row, even where documents do not see each other.
    """
    layer = model.length * (find_variant(model).projection_products(model) + 2 * model.dim * model.mlp_dim)
    mlm_head = max_predictions * (model.dim**2 + model.dim * model.vocab_size)
    return 6.0 * batch_size * (model.layers * layer + mlm_head) + 3 * attention_flops(model, batch_size)


def attention_flops(model: ModelConfig, batch_size: int) -> float:
    """Returns the forward FLOPs of the products of queries with keys and of probabilities with values."""
    query_width = model.heads * sizes(model)["Q"]
    return 2.0 * batch_size * model.layers * model.length**2 * (query_width + model.dim)
