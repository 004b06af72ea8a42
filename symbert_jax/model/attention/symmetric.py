"""Attention whose keys are a linear function of its queries, and the simplest of it."""

import abc
import math

import numpy as np
from jaxtyping import Array, Float

from symbert_jax.config import ModelConfig
from symbert_jax.model.attention.base import SelfAttention
from symbert_jax.model.tree import Params

Form = Float[np.ndarray, "basis basis"]  # the matrix F of a score x_t^T F x_s, with x in some basis
Fit = tuple[Float[np.ndarray, "basis H"], Float[np.ndarray, "H H"]]  # W and P, where W P W^T approximates a `Form`


class KeysFromQueries(SelfAttention):
    """Attention without a projection for its keys, which are a linear function of its queries."""

    @abc.abstractmethod
    def keys(self, q: Float[Array, "B S N Q"]) -> Float[Array, "B S N Q"]:
        """Returns the keys P q."""

    def query_key(
        self, x: Float[Array, "B S D"], num_queries: int | None = None
    ) -> tuple[Float[Array, "B T N Q"], Float[Array, "B S N Q"]]:
        q = self.query(x)
        return q[:, :num_queries], self.keys(q)


class TiedAttention(KeysFromQueries):
    """Attention to which `import` can fit a standard one; its scores are x_t^T W P W^T x_s / sqrt(Q), plus biases."""

    @staticmethod
    @abc.abstractmethod
    def fit(form: Form, width: int) -> Fit:
        """Returns W with `width` columns and the P of this variant; W P W^T is nearest `form` in least squares."""

    @staticmethod
    def pair_parameter(pair: Float[np.ndarray, "N H H"]) -> Float[np.ndarray, "N ..."]:
        """Returns the parameter `pair` for matrices P that `fit` returned."""
        return pair


class Symmetric(TiedAttention):
    """q_t . q_s: the keys are the queries."""

    description = "symmetric, score q·q"
    folding = "in this folder, the key weights equal the query weights"
    papers_name = "symmetric"
    is_symmetric = True

    @classmethod
    def query_factor(cls, config: ModelConfig) -> float:
        return math.sqrt(cls.score_factor(config))

    def keys(self, q: Float[Array, "B S N Q"]) -> Float[Array, "B S N Q"]:
        return q

    @staticmethod
    def as_standard(weights: Params) -> Params:
        return {**weights, "key": weights["query"]}

    @staticmethod
    def fit(form: Form, width: int) -> Fit:
        """Keeps the largest eigenvalues of the symmetric part: P = I leaves no room for negative ones."""
        values, vectors = np.linalg.eigh((form + form.T) / 2)
        return vectors[:, -width:] * np.sqrt(np.maximum(values[-width:], 0)), np.eye(width)
