"""Attention whose keys are its queries times a matrix P per head: full, diagonal, or I plus one of low rank."""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from symbert_jax.config import ModelConfig
from symbert_jax.model import tpu_layouts
from symbert_jax.model.attention.base import query_width
from symbert_jax.model.attention.symmetric import Fit, Form, KeysFromQueries, TiedAttention
from symbert_jax.model.parameters import Init, gathered, ones, parameter, sizes, zeros
from symbert_jax.model.tree import Params
from symbert_jax.sharding import spec

PAPERS_PAIR_INIT = jax.nn.initializers.normal(1.0)  # the paper's initial values of P
_ROUNDS = 50  # the iterations of the search in `Pairwise.fit`, which converges after about 20


class Pairwise(TiedAttention):
    """q_t^T P q_s with a Q x Q matrix P per head."""

    description = "pairwise, score qᵀPq"
    folding = "in this folder, per head, Wk = Wq Pᵀ and bk = P bq"
    papers_name = "pairwise"
    has_pair = True
    pair_dims: ClassVar[str] = "NQG"

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        super().__init__(config, rngs)
        self.pair = parameter(self.pair_init(config), self.pair_dims, sizes(config), rngs)

    @classmethod
    def pair_init(cls, config: ModelConfig) -> Init:
        """Returns the initial values of P."""
        factor = cls.score_factor(config)
        match config.pairwise_init:
            case "normal":
                return _scaled(PAPERS_PAIR_INIT, factor)
            case "unit":
                return _scaled(PAPERS_PAIR_INIT, factor / cls.normal_gain(config))
            case _:
                return _scaled(cls.identity, factor)

    @staticmethod
    def identity(key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Float[Array, "N ..."]:
        """Returns the initial P of `pairwise_init=identity`."""
        del key
        return jnp.broadcast_to(jnp.eye(shape[1], dtype=dtype), shape)

    @classmethod
    def normal_gain(cls, config: ModelConfig) -> float:
        """Returns the `initial_gain` of P ~ N(0, 1): a score is a sum of Q^2 products where q . k has Q."""
        return math.sqrt(sizes(config)["Q"])

    @classmethod
    def initial_gain(cls, config: ModelConfig) -> float:
        return cls.normal_gain(config) if config.pairwise_init == "normal" else 1.0

    def keys(self, q: Float[Array, "B S N Q"]) -> Float[Array, "B S N Q"]:
        return tpu_layouts.multiply_by_pair(q, gathered(self.pair, q.dtype))

    @staticmethod
    def key_products(config: ModelConfig) -> int:
        return query_width(config) * sizes(config)["Q"]

    @staticmethod
    def as_standard(weights: Params) -> Params:
        return _fold(weights, lambda query: _multiply_per_head(query, weights["pair"]))

    @staticmethod
    def fit(form: Form, width: int) -> Fit:
        """Searches iteratively for the orthonormal U with the largest norm of U^T `form` U; returns U and this product.

        A round is rarely worse than the one before it, so the best of all rounds is returned.
        """
        best, most = np.linalg.eigh(form @ form.T + form.T @ form)[1][:, -width:], -1.0
        vectors = best
        for _ in range(_ROUNDS):
            if (kept := float(np.sum((vectors.T @ form @ vectors) ** 2))) > most:
                best, most = vectors, kept
            out, back = form @ vectors, form.T @ vectors
            vectors = np.linalg.eigh(out @ out.T + back @ back.T)[1][:, -width:]
        return best, best.T @ form @ best


class DiagonalPairwise(Pairwise):
    """q_t^T P q_s with a diagonal P per head: symmetric scores, as in `Symmetric`, but P may have negative entries."""

    description = "pairwise, score qᵀPq with a diagonal P"
    folding = "in this folder, per head, Wk = Wq P and bk = P bq"
    pair_dims = "NQ"

    @staticmethod
    def identity(key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Float[Array, "N ..."]:
        return ones(key, shape, dtype)

    @classmethod
    def normal_gain(cls, config: ModelConfig) -> float:
        return 1.0

    def keys(self, q: Float[Array, "B S N Q"]) -> Float[Array, "B S N Q"]:
        return gathered(self.pair, q.dtype) * q

    @staticmethod
    def key_products(config: ModelConfig) -> int:
        return 0

    @staticmethod
    def as_standard(weights: Params) -> Params:
        return _fold(weights, lambda query: query * weights["pair"][..., None, :, :])

    @classmethod
    def as_papers(cls, weights: Params) -> Params:
        """Returns P as full matrices, because the paper's code has no diagonal form."""
        pair = np.asarray(weights["pair"])
        return {**weights, "pair": pair[..., None] * np.eye(pair.shape[-1], dtype=pair.dtype)}

    @staticmethod
    def fit(form: Form, width: int) -> Fit:
        """Keeps the eigenvalues of the symmetric part that are largest in absolute value; P has their signs."""
        values, vectors = np.linalg.eigh((form + form.T) / 2)
        kept = np.argsort(np.abs(values))[-width:]
        return vectors[:, kept] * np.sqrt(np.abs(values[kept])), np.diag(np.sign(values[kept]))

    @staticmethod
    def pair_parameter(pair: Float[np.ndarray, "N H H"]) -> Float[np.ndarray, "N H"]:
        return np.diagonal(pair, axis1=1, axis2=2)


class LowRankPairwise(KeysFromQueries):
    """q_t^T (I + A B^T) q_s with A and B of `model.pairwise_rank` columns, between `Symmetric` and `Pairwise`.

    B is 0 at first, so the first scores are symmetric. A is drawn so that an update of B changes an entry of P by as
    much as the same update of a full P.
    """

    description = "pairwise, score qᵀPq with P = I + ABᵀ of low rank"
    folding = "in this folder, per head, Wk = Wq Pᵀ and bk = P bq"
    papers_name = "pairwise"

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        super().__init__(config, rngs)
        draw = jax.nn.initializers.normal(config.pairwise_rank**-0.5)
        self.pair_left = parameter(draw, "NQJ", sizes(config), rngs)
        self.pair_right = parameter(zeros, "NQJ", sizes(config), rngs)

    @classmethod
    def query_factor(cls, config: ModelConfig) -> float:
        return math.sqrt(cls.score_factor(config))

    def keys(self, q: Float[Array, "B S N Q"]) -> Float[Array, "B S N Q"]:
        left, right = (gathered(weight, q.dtype) for weight in (self.pair_left, self.pair_right))
        inner = jnp.einsum("BSNQ,NQJ->BSNJ", q, right, out_sharding=spec("BSNJ"))
        return q + jnp.einsum("BSNJ,NQJ->BSNQ", inner, left, out_sharding=spec("BSNQ"))

    @staticmethod
    def key_products(config: ModelConfig) -> int:
        return 2 * query_width(config) * config.pairwise_rank

    @staticmethod
    def as_standard(weights: Params) -> Params:
        left, right = weights["pair_left"], weights["pair_right"]
        folded = _fold(
            weights,
            lambda query: query + _multiply_per_head(_multiply_per_head(query, right.swapaxes(-1, -2)), left),
        )
        return {name: weight for name, weight in folded.items() if not name.startswith("pair")}

    @classmethod
    def as_papers(cls, weights: Params) -> Params:
        """Returns P as full matrices, because the paper's code has no other form."""
        left, right = np.asarray(weights["pair_left"]), np.asarray(weights["pair_right"])
        pair = np.eye(left.shape[-2], dtype=left.dtype) + left @ right.swapaxes(-1, -2)
        return {**{name: weight for name, weight in weights.items() if not name.startswith("pair_")}, "pair": pair}


def _scaled(init: Init, factor: float) -> Init:
    return lambda key, shape, dtype: factor * init(key, shape, dtype)


def _fold(weights: Params, multiply: Any) -> Params:
    """Replaces P by a projection whose keys are P q.

    multiply: returns P q for the rows of Wq and for bq: arrays [..., D, N, Q], where D is 1 for bq.
    """
    query = weights["query"]
    key = {"kernel": multiply(query["kernel"])}
    if "bias" in query:
        key["bias"] = multiply(query["bias"][..., None, :, :])[..., 0, :, :]
    return {**{name: weight for name, weight in weights.items() if name != "pair"}, "key": key}


def _multiply_per_head(q: Any, matrix: Any) -> Any:
    """Returns M q for arrays q [..., D, N, G] and a matrix M [..., N, Q, G] per head."""
    return (q.swapaxes(-2, -3) @ matrix.swapaxes(-1, -2)).swapaxes(-2, -3)
