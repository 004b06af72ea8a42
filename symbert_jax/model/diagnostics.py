"""Statistics of the attention of each layer: the spread of its logits, the entropy of its rows, its symmetry."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec, reshard
from jaxtyping import Array, Float, Int

from symbert_jax.batch import Array as AnyArray
from symbert_jax.config import ModelConfig
from symbert_jax.model import bert, kernels
from symbert_jax.model.attention import find_variant, symmetry
from symbert_jax.model.tree import Params

Statistics = dict[str, Float[Array, " L"]]


def attention_statistics(
    config: ModelConfig,
    params: Params,
    tokens: Int[AnyArray, "B T"],
    *,
    segments: Int[AnyArray, "B T"] | None = None,
    position_ids: Int[AnyArray, "B T"] | None = None,
) -> Statistics:
    """Returns the statistics of each layer by name, computed in plain JAX from float32 logits, without dropout.

      logit_std: the standard deviation of the logits of a query over the keys that it sees; the variance is averaged
        over queries and heads. Softmax ignores what all logits of a query have in common.
      entropy: the entropy of the attention probabilities of a query, in nats, averaged over queries and heads.
      symmetry: `attention.symmetry`, averaged over heads.

    The dict is empty if the scores of the variant do not depend on the tokens. The arguments are those of
    `bert.logits`.
    """
    if not find_variant(config).has_scores:
        return {}
    model = bert.module(config, params)
    structure, layers = nnx.split(model.layers)

    def run(x: Array, weights: nnx.State) -> tuple[Array, dict[str, Float[Array, ""]]]:
        layer = nnx.merge(structure, weights)
        return layer(x, segments), _score_statistics(*layer.attention.query_key(x), segments)

    _, found = jax.lax.scan(run, model.embeddings(tokens, None, position_ids), layers)
    whole = jax.tree.map(lambda leaf: reshard(leaf, PartitionSpec(*[None] * leaf.ndim)), params["layers"]["attention"])
    with jax.default_matmul_precision("float32"):
        return found | {"symmetry": symmetry(whole, config).mean(-1)}


def _score_statistics(q: kernels.Queries, k: kernels.Keys, segments: kernels.Segments) -> dict[str, Float[Array, ""]]:
    seen = None if segments is None else kernels.visible(segments, q.shape[1])[:, None]
    variance = kernels.scores(q, k).var(axis=-1, where=seen)
    entropy = jax.scipy.special.entr(kernels.probabilities(q, k, segments)).sum(axis=-1)
    return {"logit_std": jnp.sqrt(variance.mean()), "entropy": entropy.mean()}
