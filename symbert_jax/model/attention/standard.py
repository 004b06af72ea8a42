"""Attention with a key projection of its own, and its control without queries and keys."""

import math

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import reshard
from jaxtyping import Array, Float

from symbert_jax.config import ModelConfig
from symbert_jax.model.attention.base import SelfAttention, query_width
from symbert_jax.model.layers import Dense
from symbert_jax.model.parameters import sizes
from symbert_jax.model.tree import Params
from symbert_jax.sharding import spec


class Standard(SelfAttention):
    """q_t . k_s with a projection of its own for the keys."""

    description = "standard, score q·k"
    folding = "nothing was folded"
    papers_name = "standard"

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        super().__init__(config, rngs)
        std = config.initializer_range * self.key_factor(config)
        self.key = Dense("D->NQ", sizes(config), rngs, std, config.bias)
        if config.key_init == "query":
            self.key.kernel[...] = self.query.kernel[...]

    @classmethod
    def query_factor(cls, config: ModelConfig) -> float:
        return math.sqrt(cls.score_factor(config)) if config.key_init == "query" else 1.0

    @classmethod
    def key_factor(cls, config: ModelConfig) -> float:
        """Returns the factor on the initial Wk, unless Wk starts as a copy of Wq."""
        return cls.score_factor(config)

    def query_key(
        self, x: Float[Array, "B S D"], num_queries: int | None = None
    ) -> tuple[Float[Array, "B T N Q"], Float[Array, "B S N Q"]]:
        return self.query(x[:, :num_queries]), self.key(x)

    @staticmethod
    def key_products(config: ModelConfig) -> int:
        return config.dim * query_width(config)

    @staticmethod
    def as_standard(weights: Params) -> Params:
        return weights


class IdentityQuery(Standard):
    """x_t . k_s: Wq = I, so the query of a head is its part of x."""

    description = "standard with Wq = I, score x·k"
    folding = "in this folder, Wq = I and bq = 0"
    has_query = False

    @classmethod
    def initial_gain(cls, config: ModelConfig) -> float:
        """LayerNorm gives x a standard deviation of 1, where x Wq would have that of Wq times sqrt(D)."""
        return 1 / (config.initializer_range * math.sqrt(config.dim))

    def query_key(
        self, x: Float[Array, "B S D"], num_queries: int | None = None
    ) -> tuple[Float[Array, "B T N Q"], Float[Array, "B S N Q"]]:
        q = x[:, :num_queries].reshape(x.shape[0], -1, self.config.heads, x.shape[2] // self.config.heads)
        return reshard(q, spec("BTNQ")), self.key(x)

    @staticmethod
    def as_standard(weights: Params) -> Params:
        zero = {name: 0 * weight for name, weight in weights["key"].items()}
        shape = zero["kernel"].shape[-3:]
        identity = np.eye(shape[0], dtype=np.float32).reshape(shape)
        return {**weights, "query": {**zero, "kernel": zero["kernel"] + identity}}

    @classmethod
    def as_papers(cls, weights: Params) -> Params:
        return cls.as_standard(weights)


class Uniform(SelfAttention):
    """The score is 0: every token averages the values of all that it sees. There are neither queries nor keys."""

    description = "uniform, score 0"
    folding = "in this folder, the query and key weights are 0"
    papers_name = "standard"
    has_query = has_scores = False

    def query_key(
        self, x: Float[Array, "B S D"], num_queries: int | None = None
    ) -> tuple[Float[Array, "B T N Q"], Float[Array, "B S N Q"]]:
        shape = (*x.shape[:2], *(sizes(self.config)[dim] for dim in "NQ"))
        zero = jnp.broadcast_to(jnp.zeros((), x.dtype), shape, out_sharding=spec("BSNQ"))
        return zero[:, :num_queries], zero

    @staticmethod
    def as_standard(weights: Params) -> Params:
        zero = {name: 0 * weight for name, weight in weights["value"].items()}
        return {**weights, "query": zero, "key": zero}

    @classmethod
    def as_papers(cls, weights: Params) -> Params:
        return cls.as_standard(weights)
