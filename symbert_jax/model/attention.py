"""Self-attention and its variants, each a class.

The score of query token t for key token s, per head, with q = x Wq + bq (paper, equations 3 to 5):

    standard   q_t . (x_s Wk + bk) / sqrt(H)
    symmetric  q_t . q_s / sqrt(H)
    pairwise   q_t^T P q_s / sqrt(H), with P a full or a diagonal matrix

A class holds all that is special about its variant: parameters and keys for the model, the number of matrix products
for `flops.py`, for `export` a description and the weights as standard attention and in the format of the paper's code,
and for `import --attention` the best approximation of a standard score. A new variant is a class here, an entry in
`find_variant` and a value of a field in `config/schema.py`.
"""

import abc
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from symbert_jax.config import ModelConfig
from symbert_jax.model import kernels, tpu_layouts
from symbert_jax.model.layers import Dense
from symbert_jax.model.parameters import gathered, ones, parameter, sizes
from symbert_jax.model.tree import Params

PAPERS_PAIR_INIT = jax.nn.initializers.normal(1.0)  # the paper's initial values of P
_ROUNDS = 50  # the iterations of the search in `Pairwise.fit`, which converges after about 20

Form = Float[np.ndarray, "basis basis"]  # the matrix F of a score x_t^T F x_s, with x in some basis
Fit = tuple[Float[np.ndarray, "basis H"], Float[np.ndarray, "H H"]]  # W and P, where W P W^T approximates a `Form`


class SelfAttention(nnx.Module):
    """Multi-head self-attention, without residual and norm; each variant is a subclass."""

    description: ClassVar[str]  # completes "Its attention is …"
    folding: ClassVar[str]  # says how `as_standard` makes the key
    has_pair: ClassVar[bool] = False  # whether P is a parameter

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.config = config
        self.query = Dense("D->NH", sizes(config), rngs, config.initializer_range)
        self.value = Dense("D->NH", sizes(config), rngs, config.initializer_range)
        self.output = Dense("NH->D", sizes(config), rngs, config.initializer_range)

    @abc.abstractmethod
    def keys(self, x: Float[Array, "B S D"], q: Float[Array, "B S N H"]) -> Float[Array, "B S N H"]:
        """Returns the keys k: the scores are q . k / sqrt(H)."""

    def query_key(
        self, x: Float[Array, "B S D"], num_queries: int | None = None
    ) -> tuple[Float[Array, "B T N H"], Float[Array, "B S N H"]]:
        """Returns the queries of the first T = `num_queries` tokens (None: all) and the keys of all tokens."""
        q = self.query(x)
        return q[:, :num_queries], self.keys(x, q)

    @jax.named_scope("attention")
    def __call__(
        self,
        x: Float[Array, "B S D"],
        segments: kernels.Segments,
        key: PRNGKeyArray | None,
        num_queries: int | None = None,
    ) -> Float[Array, "B T D"]:
        """Mixes the tokens of each segment; `key` draws attention dropout (None: off)."""
        q, k = self.query_key(x, num_queries)
        return self.output(kernels.attend(self.config, q, k, self.value(x), segments, key))

    @staticmethod
    def key_products(config: ModelConfig) -> int:
        """Returns the multiply-adds per token of the matrix products that make the keys from x and q."""
        return 0

    @classmethod
    def projection_products(cls, config: ModelConfig) -> int:
        """Returns the multiply-adds per token of all projections: queries, values, output and keys."""
        return 3 * config.dim**2 + cls.key_products(config)

    @staticmethod
    @abc.abstractmethod
    def as_standard(weights: Params) -> Params:
        """Returns the weights [L, ...] of the standard attention with the same scores."""

    @staticmethod
    def as_papers(weights: Params) -> Params:
        """Returns the weights [L, ...] with which the paper's own code computes the same scores."""
        return weights


class Standard(SelfAttention):
    """q_t . k_s with a projection of its own for the keys."""

    description = "standard, score q·k"
    folding = "nothing was folded"

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        super().__init__(config, rngs)
        self.key = Dense("D->NH", sizes(config), rngs, config.initializer_range)

    def keys(self, x: Float[Array, "B S D"], q: Float[Array, "B S N H"]) -> Float[Array, "B S N H"]:
        return self.key(x)

    @staticmethod
    def key_products(config: ModelConfig) -> int:
        return config.dim**2

    @staticmethod
    def as_standard(weights: Params) -> Params:
        return weights


class TiedAttention(SelfAttention):
    """Attention that computes its keys from its queries; its scores are x_t^T W P W^T x_s / sqrt(H), plus biases."""

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

    def keys(self, x: Float[Array, "B S D"], q: Float[Array, "B S N H"]) -> Float[Array, "B S N H"]:
        return q

    @staticmethod
    def as_standard(weights: Params) -> Params:
        return {**weights, "key": weights["query"]}

    @staticmethod
    def fit(form: Form, width: int) -> Fit:
        """Keeps the largest eigenvalues of the symmetric part: P = I leaves no room for negative ones."""
        values, vectors = np.linalg.eigh((form + form.T) / 2)
        return vectors[:, -width:] * np.sqrt(np.maximum(values[-width:], 0)), np.eye(width)


class Pairwise(TiedAttention):
    """q_t^T P q_s with an H x H matrix P per head."""

    description = "pairwise, score qᵀPq"
    folding = "in this folder, per head, Wk = Wq Pᵀ and bk = P bq"
    has_pair = True

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        super().__init__(config, rngs)
        init = {"normal": PAPERS_PAIR_INIT, "identity": _identity}[config.pairwise_init]
        self.pair = parameter(init, "NHG", sizes(config), rngs)

    def keys(self, x: Float[Array, "B S D"], q: Float[Array, "B S N H"]) -> Float[Array, "B S N H"]:
        return tpu_layouts.multiply_by_pair(q, gathered(self.pair, q.dtype))

    @staticmethod
    def key_products(config: ModelConfig) -> int:
        return config.dim * config.dim // config.heads

    @staticmethod
    def as_standard(weights: Params) -> Params:
        return _fold_pair(weights, "L...NG,LNHG->L...NH")

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


class DiagonalPairwise(TiedAttention):
    """q_t^T P q_s with a diagonal P per head: symmetric scores, as in `Symmetric`, but P may have negative entries."""

    description = "pairwise, score qᵀPq with a diagonal P"
    folding = "in this folder, per head, Wk = Wq P and bk = P bq"
    has_pair = True

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        super().__init__(config, rngs)
        init = {"normal": PAPERS_PAIR_INIT, "identity": ones}[config.pairwise_init]
        self.pair = parameter(init, "NH", sizes(config), rngs)

    def keys(self, x: Float[Array, "B S D"], q: Float[Array, "B S N H"]) -> Float[Array, "B S N H"]:
        return gathered(self.pair, q.dtype) * q

    @staticmethod
    def as_standard(weights: Params) -> Params:
        return _fold_pair(weights, "L...NH,LNH->L...NH")

    @staticmethod
    def as_papers(weights: Params) -> Params:
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


def find_variant(config: ModelConfig) -> type[SelfAttention]:
    """Returns the class of the attention that `config` names."""
    pairwise = {"full": Pairwise, "diagonal": DiagonalPairwise}[config.pairwise_form]
    return {"standard": Standard, "symmetric": Symmetric, "pairwise": pairwise}[config.attention]


def _identity(key: PRNGKeyArray, shape: tuple[int, int, int], dtype: DTypeLike) -> Float[Array, "N H G"]:
    del key
    return jnp.broadcast_to(jnp.eye(shape[1], dtype=dtype), shape)


def _fold_pair(weights: Params, equation: str) -> Params:
    """Replaces P by a projection whose keys are P q.

    The new kernel [L, D, N, H] and bias [L, N, H] are those of the queries, multiplied by P with the einsum `equation`,
    in float64, because a sum over G in float32 would add rounding errors.
    """
    key = {
        name: np.ascontiguousarray(np.einsum(equation, weight, weights["pair"], dtype=np.float64), np.float32)
        for name, weight in weights["query"].items()
    }
    return {**{name: weight for name, weight in weights.items() if name != "pair"}, "key": key}
