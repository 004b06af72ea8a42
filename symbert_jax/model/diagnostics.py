"""Statistics of the attention of each layer: the spread of its logits, the entropy of its rows, its symmetry."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec, reshard
from jaxtyping import Array, Float, Int

from symbert_jax.batch import Array as AnyArray
from symbert_jax.config import ModelConfig
from symbert_jax.model import bert, kernels, positions, windows
from symbert_jax.model.attention import find_variant, symmetry
from symbert_jax.model.encoder import Carry
from symbert_jax.model.scan import scan_layers
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
      entropy: the entropy of the attention probabilities of a query, in nats, averaged over queries and heads. Neither
        mean includes padding.
      symmetry: `attention.symmetry`, averaged over heads.

    The dict is empty if the scores of the variant do not depend on the tokens. The arguments are those of
    `bert.logits`.
    """
    if not find_variant(config).has_scores:
        return {}
    model, pattern = bert.module(config, params), windows.pattern(config)
    structure, layers = nnx.split(model.layers)
    rotations = {window: positions.rotation(config, window, tokens.shape[1]) for window in pattern}

    def run(window: int, carry: Carry, weights: nnx.State) -> tuple[Carry, dict[str, Float[Array, ""]]]:
        layer, rotation = nnx.merge(structure, weights), rotations[window]
        q, k = layer.attention.rotated_query_key(carry[0], rotation=rotation)
        return layer(*carry, segments, window=window, rotation=rotation), _score_statistics(q, k, segments, window)

    _, found = scan_layers(run, model.start(model.embeddings(tokens, None, position_ids)), layers, pattern, unroll=1)
    whole = jax.tree.map(lambda leaf: reshard(leaf, PartitionSpec(*[None] * leaf.ndim)), params["layers"]["attention"])
    with jax.default_matmul_precision("float32"):
        return found | {"symmetry": symmetry(whole, config).mean(-1)}


def _score_statistics(
    q: kernels.Queries, k: kernels.Keys, segments: kernels.Segments, window: int
) -> dict[str, Float[Array, ""]]:
    variance = kernels.scores(q, k).var(axis=-1, where=kernels.visible(segments, window, q.shape[1], k.shape[1]))
    entropy = jax.scipy.special.entr(kernels.probabilities(q, k, segments, window)).sum(axis=-1)
    is_token = None if segments is None else (segments > 0)[:, None]
    return {"logit_std": jnp.sqrt(variance.mean(where=is_token)), "entropy": entropy.mean(where=is_token)}
