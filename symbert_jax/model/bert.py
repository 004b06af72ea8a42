"""The masked-language model: the encoder and a head tied to the word table.

In the functions below the classes, parameters are nested dicts of arrays. `init`, `abstract` and `logits` need the mesh
of `jax.set_mesh`.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from symbert_jax.batch import Array as AnyArray
from symbert_jax.config import MeshConfig, ModelConfig
from symbert_jax.model import gpu_forms, tree
from symbert_jax.model.encoder import Encoder
from symbert_jax.model.layers import Dense, LayerNorm, gelu, split_key
from symbert_jax.model.parameters import gathered, parameter, sizes, zeros
from symbert_jax.model.tree import Params


class MlmHead(nnx.Module):
    """Dense, GELU, LayerNorm, then the tied word table and a bias per token of the vocabulary."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.dense = Dense("D->E", sizes(config), rngs, config.initializer_range, config.bias)
        self.norm = LayerNorm(config, rngs)
        self.bias = parameter(zeros, "V", sizes(config), rngs)

    def __call__(self, x: Float[Array, "B M D"], table: Float[Array, "V D"]) -> Float[Array, "B M V"]:
        x = self.norm(gelu(self.dense(x, batch_dims="BM")))
        scores = gpu_forms.einsum_in_float32("BMD,VD->BMV", x, table)
        return scores + gathered(self.bias, jnp.float32)


class Bert(Encoder):
    """The encoder and the head that predicts masked tokens."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        super().__init__(config, rngs)
        self.head = MlmHead(config, rngs)

    @jax.named_scope("head")
    def predict(
        self, x: Float[Array, "B T D"], positions: Int[AnyArray, "B M"], table: Float[Array, "V D"]
    ) -> Float[Array, "B M V"]:
        """Returns the logits at `positions`. x is the last layer's output, `table` is `self.embeddings.table()`."""
        return self.head(jnp.take_along_axis(x, positions[..., None], axis=1), table)


def init(config: ModelConfig, mesh_config: MeshConfig, key: PRNGKeyArray) -> Params:
    """Draws parameters, each created with its sharding."""
    return tree.init(mesh_config, key, Bert, config)


def abstract(config: ModelConfig, mesh_config: MeshConfig) -> Params:
    """Returns shape, type and sharding of every parameter on the current mesh, without any array."""
    return tree.abstract(mesh_config, Bert, config)


def change_length(params: Params, length: int) -> Params:
    """Returns the same model for rows of up to `length` tokens. Rotary positions have no parameters for a length.

    For shorter rows, the position embeddings of their tokens are kept. For longer rows, the learned position embeddings
    are repeated, as Longformer does (Beltagy et al., 2020, section 5): attention then finds near neighbours everywhere
    but at the seams. With new embeddings, it would have to learn to find them.
    """
    if "position" not in params["embeddings"]:
        return params
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
    """Returns the float32 logits over the vocabulary at `positions`.

    Args:
      tokens: ids; T may be less than `config.length`.
      token_types: sentence 0 or 1; None: all are 0. Without learned positions, they have no effect.
      segments: a token sees the tokens with its own number, from 1; no token sees padding, which has 0. None: each
        token sees all.
      position_ids: the position of each token in its document; None: its position in the row. The tokens of a document
        are neighbours, so rotary positions are the same with both.
      key: draws every dropout of the pass; None: dropout is off.
    """
    bert = module(config, params)
    embeddings_key, layers_key = split_key(key, 2)
    table = bert.embeddings.table()
    x = bert.embeddings(tokens, token_types, position_ids, embeddings_key, table)
    return bert.predict(bert.encode(x, segments, layers_key), positions, table)


def module(config: ModelConfig, params: Params) -> Bert:
    """Returns the NNX module with these parameters."""
    return tree.module(params, Bert, config)


def size(config: ModelConfig) -> int:
    """Returns the number of parameters; the tied table counts once."""
    return tree.size(Bert, config)
