"""The encoder: embeddings and layers, as in BERT (Devlin et al., 2018) or as in ModernBERT (Warner et al., 2024)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from symbert_jax.batch import Array as AnyArray
from symbert_jax.config import ModelConfig
from symbert_jax.model import gpu_forms, positions, windows
from symbert_jax.model.attention import find_variant
from symbert_jax.model.layers import LayerNorm, dropout, split_key, stack
from symbert_jax.model.mlp import find_mlp
from symbert_jax.model.parameters import gathered, gathered_with_deferred_psum, normal, parameter, sizes
from symbert_jax.model.scan import scan_layers

REMAT = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


Carry = tuple[Float[Array, "B _ D"], Float[Array, "B _ D"] | None]  # the first arguments of a layer, and its results


class Embeddings(nnx.Module):
    """LayerNorm(word + position + token type), then dropout. Without learned positions, LayerNorm(word)."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.dropout, self.dtype = config.dropout, jnp.dtype(config.dtype)
        self.has_positions = config.positions == "learned"
        self.word = parameter(normal(config.initializer_range), "VD", sizes(config), rngs)
        if self.has_positions:
            self.position = parameter(normal(config.initializer_range), "TD", sizes(config), rngs)
            self.token_type = parameter(normal(config.initializer_range), "KD", sizes(config), rngs)
        self.norm = LayerNorm(config, rngs)

    def table(self) -> Float[Array, "V D"]:
        """Returns the word table for look-ups and for the head that is tied to it."""
        return gathered_with_deferred_psum(self.word[...].astype(self.dtype), "VD")

    @jax.named_scope("embedding")
    def __call__(
        self,
        tokens: Int[AnyArray, "B T"],
        token_types: Int[AnyArray, "B T"] | None = None,
        position_ids: Int[AnyArray, "B T"] | None = None,
        key: PRNGKeyArray | None = None,
        table: Float[Array, "V D"] | None = None,
    ) -> Float[Array, "B T D"]:
        """Embeds tokens.

        Args:
          token_types: sentence 0 or 1; None: all are 0. Without learned positions, this and `position_ids` are unused.
          position_ids: the position of each token in its document; None: its position in the row.
          key: draws dropout (None: off).
          table: the result of `self.table()` if the caller uses it too: then the gradients of both uses are reduced
            together. None: this call makes its own.
        """
        table = self.table() if table is None else table
        x = gpu_forms.look_up(table, tokens)
        if self.has_positions:
            position, types = gathered(self.position, self.dtype), gathered(self.token_type, self.dtype)
            x += position[: tokens.shape[1]] if position_ids is None else gpu_forms.look_up(position, position_ids)
            x += types[0] if token_types is None else gpu_forms.look_up(types, token_types)
        return dropout(self.norm(gpu_forms.in_row_major_order(x)), self.dropout, key)


class Layer(nnx.Module):
    """Attention and an MLP, each added to the residual stream, and a LayerNorm of the stream after each.

    With `model.norm=post`, the result of a norm replaces the stream. With `pre`, the stream stays as it is, and the
    result is only what the next block reads: a layer has the norm before its own MLP, and that before the attention of
    the next layer, or the final one. So the first attention reads the normed embeddings, and both kinds of model have
    the same parameters.
    """

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.dropout, self.is_pre = config.dropout, config.norm == "pre"
        self.attention = find_variant(config)(config, rngs)
        self.attention_norm = LayerNorm(config, rngs)
        self.mlp = find_mlp(config)(config, rngs)
        self.mlp_norm = LayerNorm(config, rngs)

    def __call__(
        self,
        x: Float[Array, "B S D"],
        stream: Float[Array, "B S D"] | None = None,
        segments: Int[AnyArray, "B S"] | None = None,
        key: PRNGKeyArray | None = None,
        num_queries: int | None = None,
        window: int = 0,
        rotation: positions.Rotation | None = None,
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B T D"] | None]:
        """Returns the normed activations of the first T = `num_queries` tokens (None: all), and their residual stream.

        Args:
          x: the normed activations.
          stream: the residual stream; None if x is the stream, which is always so with `model.norm=post`.
          window: of `windows`.
          rotation: of rotary positions.
        """
        scores_key, attention_key, mlp_key = split_key(key, 3)
        attended = self.attention(x, segments, scores_key, num_queries, window, rotation)
        stream = (x if stream is None else stream)[:, :num_queries]
        stream += dropout(attended, self.dropout, attention_key)
        x = self.attention_norm(stream)
        stream = (stream if self.is_pre else x) + dropout(self.mlp(x), self.dropout, mlp_key)
        return self.mlp_norm(stream), stream if self.is_pre else None


class Encoder(nnx.Module):
    """Embeddings and layers, which all models share; a subclass adds a head."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.config = config
        self.embeddings = Embeddings(config, rngs)
        self.layers = stack(lambda rngs: Layer(config, rngs), config.layers, rngs)

    def start(self, x: Float[Array, "B S D"]) -> Carry:
        """Returns the arguments of the first layer, given the embedded tokens."""
        return x, x if self.config.norm == "pre" else None

    def encode(
        self,
        x: Float[Array, "B S D"],
        segments: Int[AnyArray, "B S"] | None = None,
        key: PRNGKeyArray | None = None,
        num_queries: int | None = None,
    ) -> Float[Array, "B T D"]:
        """Runs all layers on embedded tokens.

        Returns the activations of the first T = `num_queries` tokens (None: all); the last layer computes only these.
        """
        config, pattern = self.config, windows.pattern(self.config)
        unroll = config.unroll or config.layers
        structure, weights = nnx.split(self.layers)
        keys = None if key is None else jax.random.split(key, config.layers)
        layers = weights, keys
        rotations = {window: positions.rotation(config, window, x.shape[1]) for window in pattern}

        def run(
            window: int, num_queries: int | None, carry: Carry, layer: tuple[nnx.State, PRNGKeyArray | None]
        ) -> tuple[Carry, None]:
            weights, key = layer
            run_layer = nnx.merge(structure, weights)
            return run_layer(*carry, segments, key, num_queries, window, rotations[window]), None

        if config.remat != "none":
            # Outside a loop, the compiler would merge the recomputation with the first computation, so nothing would be
            # recomputed. `prevent_cse` forbids it.
            # A pattern of all layers is no loop either: the compiler replaces one iteration by its body.
            num_in_iteration = max(unroll, len(pattern))
            all_in_loop = num_in_iteration < config.layers and config.layers % len(pattern) == 0 and num_queries is None
            run = jax.checkpoint(run, policy=REMAT[config.remat], prevent_cse=not all_in_loop, static_argnums=(0, 1))

        def run_on_all(window: int, carry: Carry, layer: Any) -> tuple[Carry, None]:
            return run(window, None, carry, layer)

        if num_queries is None:
            return scan_layers(run_on_all, self.start(x), layers, pattern, unroll)[0][0]
        last = jax.tree.map(lambda leaf: leaf[-1], layers)
        others = jax.tree.map(lambda leaf: leaf[:-1], layers)
        carry = self.start(x)
        if config.layers > 1:
            carry, _ = scan_layers(run_on_all, carry, others, pattern, unroll)
        return run(windows.layer_windows(config)[-1], num_queries, carry, last)[0][0]
