"""Self-attention and its variants, each a class.

The score of query token t for key token s, per head, with q = x Wq + bq (paper, equations 3 to 5):

    standard   q_t . (x_s Wk + bk) / sqrt(Q), also with Wq = I
    symmetric  q_t . q_s / sqrt(Q)
    pairwise   q_t^T P q_s / sqrt(Q), with P a full matrix, a diagonal one, or I plus one of low rank
    uniform    0, a control: every token averages all others

Q, the width of queries and keys, is the head width H unless `model.key_dim` says otherwise.

A class holds all that is special about its variant: parameters, their initial values and keys for the model, the number
of matrix products for `flops.py`, for `export` a description and the weights as standard attention and in the format of
the paper's code, and for `import --attention` the best approximation of a standard score. A new variant is a class
here, an entry in `find_variant` and a value of a field in `config/schema.py`.

`model.score_gain` asks for a standard deviation of the first logits, in multiples of that of standard attention. It is
the standard deviation over the draws of the parameters, for two tokens whose inputs are uncorrelated. The matrix that
comes last in the score gets the factor: Wk or P where they are free, otherwise Wq its square root.
"""

import abc
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import reshard
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from symbert_jax.config import ModelConfig
from symbert_jax.errors import UserError
from symbert_jax.model import kernels, tpu_layouts
from symbert_jax.model.layers import Dense
from symbert_jax.model.parameters import Init, gathered, ones, parameter, sizes, zeros
from symbert_jax.model.tree import Params
from symbert_jax.sharding import spec

PAPERS_PAIR_INIT = jax.nn.initializers.normal(1.0)  # the paper's initial values of P
_ROUNDS = 50  # the iterations of the search in `Pairwise.fit`, which converges after about 20

Form = Float[np.ndarray, "basis basis"]  # the matrix F of a score x_t^T F x_s, with x in some basis
Fit = tuple[Float[np.ndarray, "basis H"], Float[np.ndarray, "H H"]]  # W and P, where W P W^T approximates a `Form`


class SelfAttention(nnx.Module):
    """Multi-head self-attention, without residual and norm; each variant is a subclass."""

    description: ClassVar[str]  # completes "Its attention is …"
    folding: ClassVar[str]  # says how `as_standard` makes the query and the key
    papers_name: ClassVar[str]  # the value of `model.attention` of the weights that `as_papers` returns
    has_query: ClassVar[bool] = True  # whether Wq is a parameter
    has_scores: ClassVar[bool] = True  # whether the scores depend on the tokens
    has_pair: ClassVar[bool] = False  # whether P is a parameter and can have any scale

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.config = config
        if self.has_query:  # comes first, because the order of the parameters determines their random keys
            std = config.initializer_range * self.query_factor(config)
            self.query = Dense("D->NQ", sizes(config), rngs, std)
        self.value = Dense("D->NH", sizes(config), rngs, config.initializer_range)
        self.output = Dense("NH->D", sizes(config), rngs, config.initializer_range)

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

        The scores are q . k / sqrt(Q).
        """

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
        query_products = config.dim * _query_width(config) if cls.has_query else 0
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


class Standard(SelfAttention):
    """q_t . k_s with a projection of its own for the keys."""

    description = "standard, score q·k"
    folding = "nothing was folded"
    papers_name = "standard"

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        super().__init__(config, rngs)
        std = config.initializer_range * self.key_factor(config)
        self.key = Dense("D->NQ", sizes(config), rngs, std)
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
        return self.query(x)[:, :num_queries], self.key(x)

    @staticmethod
    def key_products(config: ModelConfig) -> int:
        return config.dim * _query_width(config)

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
        kernel, bias = weights["key"]["kernel"], weights["key"]["bias"]
        identity = np.eye(kernel.shape[-3], dtype=np.float32).reshape(kernel.shape[-3:])
        return {**weights, "query": {"kernel": 0 * kernel + identity, "bias": 0 * bias}}

    @classmethod
    def as_papers(cls, weights: Params) -> Params:
        return cls.as_standard(weights)


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
        return _query_width(config) * sizes(config)["Q"]

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
        return 2 * _query_width(config) * config.pairwise_rank

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


def find_variant(config: ModelConfig) -> type[SelfAttention]:
    """Returns the class of the attention that `config` names."""
    standard = {"learned": Standard, "identity": IdentityQuery}[config.query]
    forms = {"full": Pairwise, "diagonal": DiagonalPairwise, "low_rank": LowRankPairwise}
    pairwise = forms[config.pairwise_form]
    return {"standard": standard, "symmetric": Symmetric, "pairwise": pairwise, "uniform": Uniform}[config.attention]


def to_standard(config: ModelConfig, weights: Params) -> Params:
    """Returns the float32 weights [L, ...] of the standard attention, with keys of the head width, of the same scores.

    The products are computed in float64, because sums in float32 would add rounding errors. Narrower queries and keys
    are padded with zeros; the queries are scaled, because the scores are then divided by sqrt(H) instead of sqrt(Q).

    Raises:
      UserError: the queries and keys are wider than a head.
    """
    query_dim, head_dim = sizes(config)["Q"], sizes(config)["H"]
    if query_dim > head_dim:
        wanted = f"at most {head_dim}, the width of a head: BERT has no wider keys"
        raise UserError("model.key_dim", str(query_dim), wanted)
    exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), weights)
    standard = find_variant(config).as_standard(exact)
    for name, scale in (("query", math.sqrt(head_dim / query_dim)), ("key", 1.0)):
        standard = {**standard, name: {each: scale * _pad(leaf, head_dim) for each, leaf in standard[name].items()}}
    return jax.tree.map(lambda leaf: np.ascontiguousarray(leaf, np.float32), standard)


def to_papers(config: ModelConfig, weights: Params) -> tuple[str, Params]:
    """Returns the name of an attention of the paper's code, and its weights [L, ...] with the same scores.

    Raises:
      UserError: the queries and keys do not have the width of a head.
    """
    if sizes(config)["Q"] != sizes(config)["H"]:
        wanted = f"0: the paper's code has keys of the width of a head, {sizes(config)['H']}"
        raise UserError("model.key_dim", str(config.key_dim), wanted, "--format=huggingface takes narrower keys")
    variant = find_variant(config)
    return variant.papers_name, variant.as_papers(weights)


def symmetry(weights: Params, config: ModelConfig) -> Float[Array, "*layers N"]:
    """Returns the symmetry score |(M + M^T) / 2|^2 / |M|^2 of each head, where x_t^T M x_s is its score without biases.

    It is 1 if M is symmetric, 0 if it is antisymmetric, and about 0.5 for random matrices (Saponati et al., 2025). The
    weights are whole on every device, and those of a variant that `has_scores`.
    """
    standard = find_variant(config).as_standard(weights)
    query, key = (standard[name]["kernel"].swapaxes(-2, -3) for name in ("query", "key"))  # [..., N, D, Q]
    # M = Wq Wk^T has D x D entries; the products of its factors have Q x Q.
    cross = key.swapaxes(-1, -2) @ query
    squared = ((query.swapaxes(-1, -2) @ query) * (key.swapaxes(-1, -2) @ key)).sum((-1, -2))
    return (1 + (cross * cross.swapaxes(-1, -2)).sum((-1, -2)) / squared) / 2


def _pad(weight: Float[np.ndarray, "..."], width: int) -> Float[np.ndarray, "..."]:
    """Appends zeros to the last dimension."""
    return np.pad(weight, [(0, 0)] * (weight.ndim - 1) + [(0, width - weight.shape[-1])])


def _query_width(config: ModelConfig) -> int:
    """Returns the width of the queries of all heads."""
    return config.heads * sizes(config)["Q"]


def _scaled(init: Init, factor: float) -> Init:
    return lambda key, shape, dtype: factor * init(key, shape, dtype)


def _fold(weights: Params, multiply: Any) -> Params:
    """Replaces P by a projection whose keys are P q.

    multiply: returns P q for the rows of Wq and for bq: arrays [..., D, N, Q], where D is 1 for bq.
    """
    query = weights["query"]
    key = {"kernel": multiply(query["kernel"]), "bias": multiply(query["bias"][..., None, :, :])[..., 0, :, :]}
    return {**{name: weight for name, weight in weights.items() if name != "pair"}, "key": key}


def _multiply_per_head(q: Any, matrix: Any) -> Any:
    """Returns M q for arrays q [..., D, N, G] and a matrix M [..., N, Q, G] per head."""
    return (q.swapaxes(-2, -3) @ matrix.swapaxes(-1, -2)).swapaxes(-2, -3)
