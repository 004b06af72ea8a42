"""The model for classification and regression of sentences and pairs: the encoder and a head on [CLS]."""

import abc
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from symbert_jax.batch import Array as AnyArray
from symbert_jax.config import MeshConfig, ModelConfig
from symbert_jax.model import tree
from symbert_jax.model.encoder import Encoder
from symbert_jax.model.layers import Dense, LayerNorm, dropout, gelu, split_key
from symbert_jax.model.parameters import sizes
from symbert_jax.model.tree import Params


class ClassificationHead(nnx.Module):
    """A transform of [CLS], dropout, dense. The head has an output per class, or a single one for a regression."""

    kept: ClassVar[tuple[str, ...]]  # the parts that stay those of the masked-language head

    def __init__(self, config: ModelConfig, num_outputs: int, rngs: nnx.Rngs):
        self.dropout = config.dropout
        self.add_transform(config, rngs)  # comes first, because the order of the parameters determines their keys
        head_sizes = {**sizes(config), "C": num_outputs}
        self.classifier = Dense("D->C", head_sizes, rngs, config.initializer_range)

    def __call__(self, x: Float[Array, "B D"], key: PRNGKeyArray | None) -> Float[Array, "B C"]:
        pooled = dropout(self.transform(x), self.dropout, key)
        # The product is in float32: bfloat16 numbers around 4 are 1/32 apart, so predicted similarities would tie.
        return self.classifier(pooled.astype(jnp.float32), batch_dims="B")

    @abc.abstractmethod
    def add_transform(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        """Creates the parameters of `transform`."""

    @abc.abstractmethod
    def transform(self, x: Float[Array, "B D"]) -> Float[Array, "B D"]:
        """Returns what the classes are predicted from."""


class PoolerHead(ClassificationHead):
    """With BERT's pooler, dense and tanh, which pretraining without next-sentence prediction does not have."""

    kept = ()

    def add_transform(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        self.pooler = Dense("D->E", sizes(config), rngs, config.initializer_range, config.bias)

    def transform(self, x: Float[Array, "B D"]) -> Float[Array, "B D"]:
        return jnp.tanh(self.pooler(x, batch_dims="B"))


class NormedHead(ClassificationHead):
    """With the transform of the masked-language head, dense, GELU and LayerNorm, as ModernBERT has it."""

    kept = ("dense", "norm")

    def add_transform(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        self.dense = Dense("D->E", sizes(config), rngs, config.initializer_range, config.bias)
        self.norm = LayerNorm(config, rngs)

    def transform(self, x: Float[Array, "B D"]) -> Float[Array, "B D"]:
        return self.norm(gelu(self.dense(x, batch_dims="B")))


def find_head(config: ModelConfig) -> type[ClassificationHead]:
    """Returns the class of the head: that of ModernBERT with `model.norm=pre`, otherwise that of BERT."""
    return NormedHead if config.norm == "pre" else PoolerHead


class Classifier(Encoder):
    """The encoder and a head for classification or regression."""

    def __init__(self, config: ModelConfig, num_outputs: int, rngs: nnx.Rngs):
        super().__init__(config, rngs)
        self.head = find_head(config)(config, num_outputs, rngs)


def init_head(config: ModelConfig, num_outputs: int, key: PRNGKeyArray) -> Params:
    """Draws a new head, of which `pretrained` may replace parts."""
    return tree.make(key, find_head(config), config, num_outputs)


def pretrained(config: ModelConfig, params: Params) -> Params:
    """Returns the parameters of a pretrained or fine-tuned model that another task starts from.

    These are the encoder and the parts of the `head` that a new head keeps.
    """
    head = {part: weights for part, weights in params["head"].items() if part in find_head(config).kept}
    return {part: weights for part, weights in params.items() if part != "head"} | ({"head": head} if head else {})


def abstract(config: ModelConfig, num_outputs: int, mesh_config: MeshConfig) -> Params:
    """Returns shape, type and sharding of every parameter on the current mesh, without any array."""
    return tree.abstract(mesh_config, Classifier, config, num_outputs)


def logits(
    config: ModelConfig,
    num_outputs: int,
    params: Params,
    tokens: Int[AnyArray, "B T"],
    *,
    token_types: Int[AnyArray, "B T"],
    mask: Bool[AnyArray, "B T"],
    key: PRNGKeyArray | None = None,
) -> Float[Array, "B C"]:
    """Returns the float32 logits of the classes; C is 1 in a regression, and the only output is the predicted value.

    Args:
      tokens: ids, [CLS] first; T may be less than `config.length`.
      token_types: sentence 0 or 1.
      mask: whether a token is real, not padding.
      key: draws every dropout of the pass; None: dropout is off.
    """
    model = tree.module(params, Classifier, config, num_outputs)
    encoder_key, head_key = split_key(key, 2)
    embeddings_key, layers_key = split_key(encoder_key, 2)
    x = model.embeddings(tokens, token_types, key=embeddings_key)
    x = model.encode(x, mask.astype(jnp.int32), layers_key, num_queries=1)
    return model.head(x[:, 0], head_key)
