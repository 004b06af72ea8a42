"""BERT (Devlin et al., 2018): post-LayerNorm encoder and tied masked-language-model head.

Inside, Flax NNX modules; outside, parameters are a nested dict of arrays and the functions at the end of
this file are pure. Everything runs under `jax.set_mesh`.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from symbert_jax.batch import Array as AnyArray
from symbert_jax.config import Mesh, Model
from symbert_jax.model.attention import SelfAttention
from symbert_jax.model.layers import Dense, LayerNorm, Sizes, dropout, gelu, normal, parameter, stack, use, zeros
from symbert_jax.sharding import parameter_spec, spec

Params = dict[str, Any]

TOKEN_TYPES = 2


def sizes(config: Model) -> Sizes:
    """The size behind each letter. K counts token types; E is D again and G is H again, so that no array
    has a letter twice."""
    head = config.dim // config.heads
    return {
        "T": config.length,
        "D": config.dim,
        "E": config.dim,
        "N": config.heads,
        "H": head,
        "G": head,
        "F": config.mlp_dim,
        "V": config.vocab_size,
        "L": config.layers,
        "K": TOKEN_TYPES,
    }


class Embeddings(nnx.Module):
    """LayerNorm(word + position + token type), then dropout."""

    def __init__(self, config: Model, rngs: nnx.Rngs):
        self.dropout, self.dtype = config.dropout, jnp.dtype(config.dtype)
        self.word = parameter(normal, "VD", sizes(config), rngs)
        self.position = parameter(normal, "TD", sizes(config), rngs)
        self.token_type = parameter(normal, "KD", sizes(config), rngs)
        self.norm = LayerNorm(sizes(config), rngs)

    def __call__(
        self, tokens: Int[AnyArray, "B T"], token_types: Int[AnyArray, "B T"] | None, key: PRNGKeyArray | None
    ) -> Float[Array, "B T D"]:
        types = use(self.token_type, self.dtype)
        x = use(self.word, self.dtype).at[tokens].get(out_sharding=spec("BTD"))
        x += use(self.position, self.dtype)[: tokens.shape[1]]
        x += types[0] if token_types is None else types.at[token_types].get(out_sharding=spec("BTD"))
        return dropout(self.norm(x), self.dropout, key)


class Mlp(nnx.Module):
    def __init__(self, config: Model, rngs: nnx.Rngs):
        self.up = Dense("D->F", sizes(config), rngs)
        self.down = Dense("F->D", sizes(config), rngs)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return self.down(gelu(self.up(x)))


class Layer(nnx.Module):
    """x = norm(x + attention(x)); x = norm(x + mlp(x))."""

    def __init__(self, config: Model, rngs: nnx.Rngs):
        self.dropout = config.dropout
        self.attention = SelfAttention(config, sizes(config), rngs)
        self.attention_norm = LayerNorm(sizes(config), rngs)
        self.mlp = Mlp(config, rngs)
        self.mlp_norm = LayerNorm(sizes(config), rngs)

    def __call__(
        self, x: Float[Array, "B T D"], mask: Bool[AnyArray, "B T"] | None, key: PRNGKeyArray | None
    ) -> Float[Array, "B T D"]:
        scores, attended, expanded = (None,) * 3 if key is None else jax.random.split(key, 3)
        x = self.attention_norm(x + dropout(self.attention(x, mask, scores), self.dropout, attended))
        return self.mlp_norm(x + dropout(self.mlp(x), self.dropout, expanded))


class MlmHead(nnx.Module):
    """Dense, GELU, LayerNorm, then the tied word table and a bias a word."""

    def __init__(self, config: Model, rngs: nnx.Rngs):
        self.dense = Dense("D->E", sizes(config), rngs)
        self.norm = LayerNorm(sizes(config), rngs)
        self.bias = parameter(zeros, "V", sizes(config), rngs)

    def __call__(self, x: Float[Array, "B M D"], word: nnx.Param) -> Float[Array, "B M V"]:
        x = self.norm(gelu(self.dense(x, rows="BM")))
        scores = jnp.einsum(
            "BMD,VD->BMV",
            x,
            use(word, x.dtype),
            preferred_element_type=jnp.float32,
            out_sharding=spec("BMV"),
        )
        return scores + use(self.bias, jnp.float32)


class Bert(nnx.Module):
    def __init__(self, config: Model, rngs: nnx.Rngs):
        self.count, self.unroll, self.remat = config.layers, config.unroll, config.remat
        self.embeddings = Embeddings(config, rngs)
        self.layers = stack(lambda rngs: Layer(config, rngs), config.layers, rngs)
        self.head = MlmHead(config, rngs)

    def encode(
        self,
        tokens: Int[AnyArray, "B T"],
        token_types: Int[AnyArray, "B T"] | None,
        mask: Bool[AnyArray, "B T"] | None,
        key: PRNGKeyArray | None,
    ) -> Float[Array, "B T D"]:
        first, rest = (None, None) if key is None else jax.random.split(key)
        keys = None if rest is None else jax.random.split(rest, self.count)
        x = self.embeddings(tokens, token_types, first)
        structure, weights = nnx.split(self.layers)

        def run(x: Array, layer: tuple[nnx.State, PRNGKeyArray | None]) -> tuple[Array, None]:
            weights, key = layer
            return nnx.merge(structure, weights)(x, mask, key), None

        if self.remat != "none":
            run = jax.checkpoint(run, policy=REMAT[self.remat], prevent_cse=False)
        x, _ = jax.lax.scan(run, x, (weights, keys), unroll=self.unroll)
        return x

    def predict(self, x: Float[Array, "B T D"], positions: Int[AnyArray, "B M"]) -> Float[Array, "B M V"]:
        return self.head(jnp.take_along_axis(x, positions[..., None], axis=1), self.embeddings.word)


REMAT = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


@functools.cache
def _structure(config: Model) -> tuple[nnx.GraphDef[Bert], nnx.State]:
    """The module without its arrays, and the shapes and dimension names of these."""
    return nnx.split(nnx.eval_shape(lambda: Bert(config, nnx.Rngs(0))))


def init(config: Model, mesh: Mesh, key: PRNGKeyArray) -> Params:
    """Fresh parameters, each born where it will live."""
    shardings = jax.tree.map(lambda shape: shape.sharding, abstract(config, mesh))

    def make(key: PRNGKeyArray) -> Params:
        return nnx.to_pure_dict(nnx.state(Bert(config, nnx.Rngs(key))))

    return jax.jit(make, out_shardings=shardings)(key)


def abstract(config: Model, mesh: Mesh) -> Params:
    """Shape, type and sharding of every parameter on the current mesh, without any array."""
    devices = jax.sharding.get_mesh()

    def describe(path: tuple[Any, ...], weight: nnx.Variable) -> jax.ShapeDtypeStruct:
        dims = "L" * (path[0].key == "layers") + weight.dims
        sharding = jax.NamedSharding(devices, parameter_spec(dims, mesh))
        return jax.ShapeDtypeStruct(weight.shape, weight.dtype, sharding=sharding)

    _, state = _structure(config)
    described = jax.tree.map_with_path(describe, state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    return nnx.to_pure_dict(described)


def logits(
    config: Model,
    params: Params,
    tokens: Int[AnyArray, "B T"],
    positions: Int[AnyArray, "B M"],
    *,
    token_types: Int[AnyArray, "B T"] | None = None,
    mask: Bool[AnyArray, "B T"] | None = None,
    key: PRNGKeyArray | None = None,
) -> Float[Array, "B M V"]:
    """What the model expects at `positions`, as float32 logits over the vocabulary.

    Args:
      tokens: ids; T may be shorter than `config.length`.
      token_types: sentence 0 or 1; None is all 0.
      mask: which tokens are real; None is all of them.
      key: draws every dropout of the pass; None turns dropout off.
    """
    bert = module(config, params)
    return bert.predict(bert.encode(tokens, token_types, mask, key), positions)


def module(config: Model, params: Params) -> Bert:
    """The NNX module around `params`."""
    structure, _ = _structure(config)
    return nnx.merge(structure, nnx.State(params))


def size(config: Model) -> int:
    """The number of parameters; the tied table counts once."""
    _, state = _structure(config)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state))
