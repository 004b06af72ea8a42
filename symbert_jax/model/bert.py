"""BERT for masked-language modelling: the encoder and a head tied to the word table.

The functions at the end of this file are pure, on nested dicts of arrays. Everything runs under `jax.set_mesh`.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from symbert_jax.batch import Array as AnyArray
from symbert_jax.config import MeshConfig, ModelConfig
from symbert_jax.model import tree
from symbert_jax.model.dense import Dense
from symbert_jax.model.encoder import Encoder, sizes
from symbert_jax.model.layers import LayerNorm, gelu, parameter, use, zeros
from symbert_jax.model.tree import Params
from symbert_jax.sharding import spec


class MlmHead(nnx.Module):
    """Dense, GELU, LayerNorm, then the tied word table and a bias a word."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.dense = Dense("D->E", sizes(config), rngs)
        self.norm = LayerNorm(sizes(config), rngs)
        self.bias = parameter(zeros, "V", sizes(config), rngs)

    def __call__(self, x: Float[Array, "B M D"], table: Float[Array, "V D"]) -> Float[Array, "B M V"]:
        x = self.norm(gelu(self.dense(x, rows="BM")))
        scores = jnp.einsum(
            "BMD,VD->BMV",
            x,
            table,
            preferred_element_type=jnp.float32,
            out_sharding=spec("BMV"),
        )
        return scores + use(self.bias, jnp.float32)


class Bert(Encoder):
    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        super().__init__(config, rngs)
        self.head = MlmHead(config, rngs)

    @jax.named_scope("head")
    def predict(
        self, x: Float[Array, "B T D"], positions: Int[AnyArray, "B M"], table: Float[Array, "V D"] | None = None
    ) -> Float[Array, "B M V"]:
        table = self.embeddings.table() if table is None else table
        return self.head(jnp.take_along_axis(x, positions[..., None], axis=1), table)


def init(config: ModelConfig, mesh: MeshConfig, key: PRNGKeyArray) -> Params:
    """Fresh parameters, each born where it will live."""
    return tree.init(mesh, key, Bert, config)


def abstract(config: ModelConfig, mesh: MeshConfig) -> Params:
    """Shape, type and sharding of every parameter on the current mesh, without any array."""
    return tree.abstract(mesh, Bert, config)


def lengthen(params: Params, length: int) -> Params:
    """The same model for rows of up to `length` tokens, not fewer than before.

    The learned positions are repeated, as Longformer does (Beltagy et al., 2020, section 5): attention's sense of
    near neighbours then holds everywhere but at the seams, which a fresh table would have to learn again.
    """
    position = params["embeddings"]["position"]
    repeated = jnp.concatenate([position] * -(-length // len(position)))[:length]
    return params | {"embeddings": params["embeddings"] | {"position": repeated}}


def logits(
    config: ModelConfig,
    params: Params,
    tokens: Int[AnyArray, "B T"],
    positions: Int[AnyArray, "B M"],
    *,
    token_types: Int[AnyArray, "B T"] | None = None,
    segments: Int[AnyArray, "B T"] | None = None,
    position_ids: Int[AnyArray, "B T"] | None = None,
    key: PRNGKeyArray | None = None,
) -> Float[Array, "B M V"]:
    """What the model expects at `positions`, as float32 logits over the vocabulary.

    Args:
      tokens: ids; T may be shorter than `config.length`.
      token_types: sentence 0 or 1; None is all 0.
      segments: tokens see those of their own number, from 1; none see padding, which has 0. None is one for all.
      places: where each token stands in its document; None is where it stands in the row.
      key: draws every dropout of the pass; None turns dropout off.
    """
    bert = module(config, params)
    table = bert.embeddings.table()
    return bert.predict(
        bert.encode(tokens, token_types, segments, key, position_ids=position_ids, table=table), positions, table
    )


def module(config: ModelConfig, params: Params) -> Bert:
    """The NNX module around `params`."""
    return tree.module(params, Bert, config)


def size(config: ModelConfig) -> int:
    """The number of parameters; the tied table counts once."""
    return tree.size(Bert, config)
