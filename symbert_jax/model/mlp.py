"""The feed-forward blocks of a layer, each a class."""

from typing import ClassVar

import jax
from flax import nnx
from jaxtyping import Array, Float

from symbert_jax.config import ModelConfig
from symbert_jax.model.layers import Dense, gelu
from symbert_jax.model.parameters import sizes


class Mlp(nnx.Module):
    """GELU(x U) W, the block of BERT."""

    num_matrices: ClassVar[int] = 2  # D x F each

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.up = Dense("D->F", sizes(config), rngs, config.initializer_range, config.bias)
        self.down = Dense("F->D", sizes(config), rngs, config.initializer_range, config.bias)

    @jax.named_scope("feed_forward")
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return self.down(self.inner(x))

    def inner(self, x: Float[Array, "B T D"]) -> Float[Array, "B T F"]:
        """Returns what the last matrix multiplies."""
        return gelu(self.up(x))


class GatedMlp(Mlp):
    """(GELU(x U) * x V) W, the GEGLU of Shazeer (2020) and the block of ModernBERT."""

    num_matrices = 3

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        super().__init__(config, rngs)
        self.gate = Dense("D->F", sizes(config), rngs, config.initializer_range, config.bias)

    def inner(self, x: Float[Array, "B T D"]) -> Float[Array, "B T F"]:
        return gelu(self.up(x)) * self.gate(x)


def find_mlp(config: ModelConfig) -> type[Mlp]:
    """Returns the class of the feed-forward block that `config` names."""
    return {"gelu": Mlp, "geglu": GatedMlp}[config.mlp]
