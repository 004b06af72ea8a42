"""BERT for classification and regression of sentences and pairs: the encoder, BERT's pooler and one dense layer."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from symbert_jax.batch import Array as AnyArray
from symbert_jax.config import MeshConfig, ModelConfig
from symbert_jax.model import tree
from symbert_jax.model.dense import Dense
from symbert_jax.model.encoder import Encoder, sizes
from symbert_jax.model.layers import dropout
from symbert_jax.model.tree import Params


class ClassificationHead(nnx.Module):
    """Dense and tanh on [CLS], dropout, dense; one class is a regression."""

    def __init__(self, config: ModelConfig, classes: int, rngs: nnx.Rngs):
        letters = {**sizes(config), "C": classes}
        self.dropout = config.dropout
        self.pooler = Dense("D->E", letters, rngs)
        self.classifier = Dense("D->C", letters, rngs)

    def __call__(self, x: Float[Array, "B D"], key: PRNGKeyArray | None) -> Float[Array, "B C"]:
        pooled = dropout(jnp.tanh(self.pooler(x, rows="B")), self.dropout, key)
        return self.classifier(pooled.astype(jnp.float32), rows="B")  # bfloat16 tells similarities apart by 1/64


class Classifier(Encoder):
    def __init__(self, config: ModelConfig, classes: int, rngs: nnx.Rngs):
        super().__init__(config, rngs)
        self.head = ClassificationHead(config, classes, rngs)


def init_head(config: ModelConfig, classes: int, key: PRNGKeyArray) -> Params:
    """A fresh head: what a pretrained model lacks under `head`, where its own was."""
    return tree.make(key, ClassificationHead, config, classes)


def abstract(config: ModelConfig, classes: int, mesh: MeshConfig) -> Params:
    """Shape, type and sharding of every parameter on the current mesh, without any array."""
    return tree.abstract(mesh, Classifier, config, classes)


def logits(
    config: ModelConfig,
    classes: int,
    params: Params,
    tokens: Int[AnyArray, "B T"],
    *,
    token_types: Int[AnyArray, "B T"],
    mask: Bool[AnyArray, "B T"],
    key: PRNGKeyArray | None = None,
) -> Float[Array, "B C"]:
    """Float32 logits of the classes, or with one class the value that a regression predicts.

    Args:
      tokens: [CLS] first; T may be shorter than `config.length`.
      token_types: sentence 0 or 1.
      mask: which tokens are real.
      key: draws every dropout of the pass; None turns dropout off.
    """
    model = tree.module(params, Classifier, config, classes)
    encoder, head = (None, None) if key is None else jax.random.split(key)
    return model.head(model.encode(tokens, token_types, mask.astype(jnp.int32), encoder, first=1)[:, 0], head)
