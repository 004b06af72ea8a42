"""The choice of the variant that a config names."""

from symbert_jax.config import ModelConfig
from symbert_jax.model.attention.base import SelfAttention
from symbert_jax.model.attention.pairwise import DiagonalPairwise, LowRankPairwise, Pairwise
from symbert_jax.model.attention.standard import IdentityQuery, Standard, Uniform
from symbert_jax.model.attention.symmetric import Symmetric


def find_variant(config: ModelConfig) -> type[SelfAttention]:
    """Returns the class of the attention that `config` names."""
    standard = {"learned": Standard, "identity": IdentityQuery}[config.query]
    forms = {"full": Pairwise, "diagonal": DiagonalPairwise, "low_rank": LowRankPairwise}
    pairwise = forms[config.pairwise_form]
    return {"standard": standard, "symmetric": Symmetric, "pairwise": pairwise, "uniform": Uniform}[config.attention]
