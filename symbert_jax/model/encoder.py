"""The encoder of BERT (Devlin et al., 2018): embeddings and post-LayerNorm layers, stacked and scanned."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from symbert_jax.batch import Array as AnyArray
from symbert_jax.config import ModelConfig
from symbert_jax.model import gpu_forms
from symbert_jax.model.attention import find_variant
from symbert_jax.model.layers import Dense, LayerNorm, dropout, gelu, split_key, stack
from symbert_jax.model.parameters import gathered, gathered_with_deferred_psum, normal, parameter, sizes

REMAT = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Embeddings(nnx.Module):
    """LayerNorm(word + position + token type), then dropout."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.dropout, self.dtype = config.dropout, jnp.dtype(config.dtype)
        self.word = parameter(normal(config.initializer_range), "VD", sizes(config), rngs)
        self.position = parameter(normal(config.initializer_range), "TD", sizes(config), rngs)
        self.token_type = parameter(normal(config.initializer_range), "KD", sizes(config), rngs)
        self.norm = LayerNorm(sizes(config), rngs)

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
          token_types: sentence 0 or 1; None: all are 0.
          position_ids: the position of each token in its document; None: its position in the row.
          key: draws dropout (None: off).
          table: the result of `self.table()` if the caller uses it too: then the gradients of both uses are reduced
            together. None: this call makes its own.
        """
        table = self.table() if table is None else table
        position, types = gathered(self.position, self.dtype), gathered(self.token_type, self.dtype)
        x = gpu_forms.look_up(table, tokens)
        x += position[: tokens.shape[1]] if position_ids is None else gpu_forms.look_up(position, position_ids)
        x += types[0] if token_types is None else gpu_forms.look_up(types, token_types)
        return dropout(self.norm(gpu_forms.in_row_major_order(x)), self.dropout, key)


class Mlp(nnx.Module):
    """The feed-forward block of a layer: dense, GELU, dense."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.up = Dense("D->F", sizes(config), rngs, config.initializer_range)
        self.down = Dense("F->D", sizes(config), rngs, config.initializer_range)

    @jax.named_scope("feed_forward")
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return self.down(gelu(self.up(x)))


class Layer(nnx.Module):
    """x = norm(x + attention(x)); x = norm(x + mlp(x))."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.dropout = config.dropout
        self.attention = find_variant(config)(config, rngs)
        self.attention_norm = LayerNorm(sizes(config), rngs)
        self.mlp = Mlp(config, rngs)
        self.mlp_norm = LayerNorm(sizes(config), rngs)

    def __call__(
        self,
        x: Float[Array, "B S D"],
        segments: Int[AnyArray, "B S"] | None = None,
        key: PRNGKeyArray | None = None,
        num_queries: int | None = None,
    ) -> Float[Array, "B T D"]:
        """Returns the activations of the first T = `num_queries` tokens (None: all)."""
        scores_key, attention_key, mlp_key = split_key(key, 3)
        attended = dropout(self.attention(x, segments, scores_key, num_queries), self.dropout, attention_key)
        x = self.attention_norm(x[:, :num_queries] + attended)
        return self.mlp_norm(x + dropout(self.mlp(x), self.dropout, mlp_key))


class Encoder(nnx.Module):
    """Embeddings and layers, which all models share; a subclass adds a head."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.num_layers, self.unroll, self.remat = config.layers, config.unroll or config.layers, config.remat
        self.embeddings = Embeddings(config, rngs)
        self.layers = stack(lambda rngs: Layer(config, rngs), config.layers, rngs)

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
        structure, weights = nnx.split(self.layers)
        keys = None if key is None else jax.random.split(key, self.num_layers)
        layers = weights, keys

        def run(num_queries: int | None, x: Array, layer: tuple[nnx.State, PRNGKeyArray | None]) -> tuple[Array, None]:
            weights, key = layer
            return nnx.merge(structure, weights)(x, segments, key, num_queries), None

        if self.remat != "none":
            # Outside a loop, the compiler would merge the recomputation with the first computation, so nothing would be
            # recomputed. `prevent_cse` forbids it.
            all_in_loop = self.unroll < self.num_layers and num_queries is None
            run = jax.checkpoint(run, policy=REMAT[self.remat], prevent_cse=not all_in_loop, static_argnums=0)
        run_on_all = functools.partial(run, None)  # all tokens are queries
        if num_queries is None:
            return scan_layers(run_on_all, x, layers, self.unroll)
        last = jax.tree.map(lambda leaf: leaf[-1], layers)
        x = scan_layers(run_on_all, x, jax.tree.map(lambda leaf: leaf[:-1], layers), self.unroll)
        return run(num_queries, x, last)[0]


def scan_layers(run: Callable[[Array, Any], tuple[Array, None]], x: Array, layers: Any, unroll: int) -> Array:
    """Runs `layers` in a loop with `unroll` layers per iteration, or with one if `unroll` does not divide their number.

    If `unroll` is at least the number of layers, there is no loop.
    """
    count = jax.tree.leaves(layers)[0].shape[0]
    if unroll >= count:
        return jax.lax.scan(run, x, layers, unroll=True)[0]
    if unroll == 1 or count % unroll:
        return jax.lax.scan(run, x, layers)[0]
    # Nested scans, because `scan(unroll=…)` of jax 0.10.2 raises for `reduced` weights unless it unrolls all layers.
    groups = jax.tree.map(lambda leaf: leaf.reshape(count // unroll, unroll, *leaf.shape[1:]), layers)
    return jax.lax.scan(lambda x, group: jax.lax.scan(run, x, group, unroll=True), x, groups)[0]
