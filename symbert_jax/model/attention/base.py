"""What all variants of attention share."""

import abc
from typing import ClassVar

import jax
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from symbert_jax.config import ModelConfig
from symbert_jax.model import kernels, positions
from symbert_jax.model.layers import Dense
from symbert_jax.model.parameters import sizes
from symbert_jax.model.tree import Params


class SelfAttention(nnx.Module):
    """Multi-head self-attention, without residual and norm; each variant is a subclass."""

    description: ClassVar[str]  # completes "Its attention is …"
    folding: ClassVar[str]  # says how `as_standard` makes the query and the key
    papers_name: ClassVar[str]  # the value of `model.attention` of the weights that `as_papers` returns
    has_query: ClassVar[bool] = True  # whether Wq is a parameter
    has_scores: ClassVar[bool] = True  # whether the scores depend on the tokens
    is_symmetric: ClassVar[bool] = False  # whether the keys are the queries
    has_pair: ClassVar[bool] = False  # whether P is a parameter and can have any scale

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.config = config
        if self.has_query:  # comes first, because the order of the parameters determines their random keys
            std = config.initializer_range * self.query_factor(config)
            self.query = Dense("D->NQ", sizes(config), rngs, std, config.bias)
        self.value = Dense("D->NH", sizes(config), rngs, config.initializer_range, config.bias)
        self.output = Dense("NH->D", sizes(config), rngs, config.initializer_range, config.bias)

    @classmethod
    def initial_gain(cls, config: ModelConfig) -> float:
        """Returns what `model.score_gain` would be if it named the variant's own initial values."""
        return 1.0

    @classmethod
    def score_factor(cls, config: ModelConfig) -> float:
        """Returns the factor on the variant's own first logits that makes them as large as `model.score_gain` asks."""
        return config.score_gain / cls.initial_gain(config) if config.score_gain else 1.0

    @classmethod
    def query_factor(cls, config: ModelConfig) -> float:
        """Returns the factor on the initial Wq."""
        return 1.0

    @abc.abstractmethod
    def query_key(
        self, x: Float[Array, "B S D"], num_queries: int | None = None
    ) -> tuple[Float[Array, "B T N Q"], Float[Array, "B S N Q"]]:
        """Returns the queries of the first T = `num_queries` tokens (None: all) and the keys of all tokens.

        Without rotary positions, the scores are q . k / sqrt(Q).
        """

    def rotated_query_key(
        self, x: Float[Array, "B S D"], num_queries: int | None = None, rotation: positions.Rotation | None = None
    ) -> tuple[Float[Array, "B T N Q"], Float[Array, "B S N Q"]]:
        """Returns the queries and keys whose products, divided by sqrt(Q), are the scores.

        Keys that are a linear function of the queries are so before the rotation. Thus a projection of x can replace
        them, see `as_standard`.
        """
        q, k = self.query_key(x, num_queries)
        return (q, k) if rotation is None else (positions.rotate(q, rotation), positions.rotate(k, rotation))

    @jax.named_scope("attention")
    def __call__(
        self,
        x: Float[Array, "B S D"],
        segments: kernels.Segments,
        key: PRNGKeyArray | None,
        num_queries: int | None = None,
        window: int = 0,
        rotation: positions.Rotation | None = None,
    ) -> Float[Array, "B T D"]:
        """Mixes the tokens of each segment that are in each other's window; `key` draws attention dropout (None: off).

        The rotation is that of rotary positions.
        """
        q, k = self.rotated_query_key(x, num_queries, rotation)
        mixed = kernels.attend(self.config, q, k, self.value(x), segments, key, window, self.is_symmetric)
        return self.output(mixed)

    @staticmethod
    def key_products(config: ModelConfig) -> int:
        """Returns the multiply-adds per token of the matrix products that make the keys from x and q."""
        return 0

    @classmethod
    def projection_products(cls, config: ModelConfig) -> int:
        """Returns the multiply-adds per token of all projections: queries, values, output and keys."""
        query_products = config.dim * query_width(config) if cls.has_query else 0
        return query_products + 2 * config.dim**2 + cls.key_products(config)

    @staticmethod
    @abc.abstractmethod
    def as_standard(weights: Params) -> Params:
        """Returns the weights of the standard attention with the same scores; see `to_standard`.

        Each weight may have leading dimensions. Numpy arrays give numpy arrays, and JAX arrays JAX arrays.
        """

    @classmethod
    def as_papers(cls, weights: Params) -> Params:
        """Returns the weights [L, ...] with which the paper's own code computes the same scores."""
        return weights


def query_width(config: ModelConfig) -> int:
    """Returns the width of the queries of all heads."""
    return config.heads * sizes(config)["Q"]
