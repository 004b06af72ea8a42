"""Model FLOPs: the cost of the mathematics of a training step, not of the operations that a program executes."""

from symbert_jax.config import ModelConfig
from symbert_jax.model.attention import find_variant
from symbert_jax.model.mlp import find_mlp
from symbert_jax.model.parameters import sizes
from symbert_jax.model.windows import layer_windows, num_pairs


def train_flops(model: ModelConfig, batch_size: int, max_predictions: int) -> float:
    """Returns the FLOPs of forward and backward pass of `batch_size` rows with `max_predictions` predictions each.

    Counts matrix products with 2 FLOPs per multiply-add, the backward pass as twice the forward pass, and nothing
    that is recomputed. Attention is counted between all tokens of a row, in local layers between those that are in
    each other's window, even where documents do not see each other.
    """
    mlp = find_mlp(model).num_matrices * model.dim * model.mlp_dim
    layer = model.length * (find_variant(model).projection_products(model) + mlp)
    mlm_head = max_predictions * (model.dim**2 + model.dim * model.vocab_size)
    return 6.0 * batch_size * (model.layers * layer + mlm_head) + 3 * attention_flops(model, batch_size)


def attention_flops(model: ModelConfig, batch_size: int) -> float:
    """Returns the forward FLOPs of the products of queries with keys and of probabilities with values."""
    query_width = model.heads * sizes(model)["Q"]
    pairs = sum(num_pairs(window, model.length) for window in layer_windows(model))
    return 2.0 * batch_size * pairs * (query_width + model.dim)
