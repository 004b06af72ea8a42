"""The encoder of BERT (Devlin et al., 2018): embeddings and post-LayerNorm layers, stacked and scanned."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from symbert_jax.batch import Array as AnyArray
from symbert_jax.config import ModelConfig
from symbert_jax.model.attention import SelfAttention
from symbert_jax.model.dense import Dense
from symbert_jax.model.layers import LayerNorm, Sizes, dropout, factor, gelu, normal, parameter, stack, use
from symbert_jax.sharding import spec

TOKEN_TYPES = 2


def sizes(config: ModelConfig) -> Sizes:
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

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.dropout, self.dtype = config.dropout, jnp.dtype(config.dtype)
        self.word = parameter(normal, "VD", sizes(config), rngs)
        self.position = parameter(normal, "TD", sizes(config), rngs)
        self.token_type = parameter(normal, "KD", sizes(config), rngs)
        self.norm = LayerNorm(sizes(config), rngs)

    def table(self) -> Float[Array, "V D"]:
        """The word table, for look-ups and for a head that is tied to it."""
        return factor(self.word[...].astype(self.dtype), "VD")

    @jax.named_scope("embedding")
    def __call__(
        self,
        tokens: Int[AnyArray, "B T"],
        token_types: Int[AnyArray, "B T"] | None,
        key: PRNGKeyArray | None,
        position_ids: Int[AnyArray, "B T"] | None = None,
        table: Float[Array, "V D"] | None = None,
    ) -> Float[Array, "B T D"]:
        table = self.table() if table is None else table
        position, types = use(self.position, self.dtype), use(self.token_type, self.dtype)
        x = table.at[tokens].get(out_sharding=spec("BTD"))
        x += (
            position[: tokens.shape[1]]
            if position_ids is None
            else position.at[position_ids].get(out_sharding=spec("BTD"))
        )
        x += types[0] if token_types is None else types.at[token_types].get(out_sharding=spec("BTD"))
        return dropout(self.norm(x), self.dropout, key)


class Mlp(nnx.Module):
    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.up = Dense("D->F", sizes(config), rngs)
        self.down = Dense("F->D", sizes(config), rngs)

    @jax.named_scope("feed_forward")
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return self.down(gelu(self.up(x)))


class Layer(nnx.Module):
    """x = norm(x + attention(x)); x = norm(x + mlp(x)), for the first `first` tokens (None: all)."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.dropout = config.dropout
        self.attention = SelfAttention(config, sizes(config), rngs)
        self.attention_norm = LayerNorm(sizes(config), rngs)
        self.mlp = Mlp(config, rngs)
        self.mlp_norm = LayerNorm(sizes(config), rngs)

    def __call__(
        self,
        x: Float[Array, "B S D"],
        segments: Int[AnyArray, "B S"] | None,
        key: PRNGKeyArray | None,
        first: int | None = None,
    ) -> Float[Array, "B T D"]:
        scores, attended, expanded = (None,) * 3 if key is None else jax.random.split(key, 3)
        mixed = dropout(self.attention(x, segments, scores, first), self.dropout, attended)
        x = self.attention_norm(x[:, :first] + mixed)
        return self.mlp_norm(x + dropout(self.mlp(x), self.dropout, expanded))


class Encoder(nnx.Module):
    """What every BERT has below its head; a subclass adds the head."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.count, self.unroll, self.remat = config.layers, config.unroll or config.layers, config.remat
        self.embeddings = Embeddings(config, rngs)
        self.layers = stack(lambda rngs: Layer(config, rngs), config.layers, rngs)

    def encode(
        self,
        tokens: Int[AnyArray, "B S"],
        token_types: Int[AnyArray, "B S"] | None,
        segments: Int[AnyArray, "B S"] | None,
        key: PRNGKeyArray | None,
        first: int | None = None,
        position_ids: Int[AnyArray, "B S"] | None = None,
        table: Float[Array, "V D"] | None = None,
    ) -> Float[Array, "B T D"]:
        """The tokens after the last layer; of them only the first T = `first`, for which that layer computes less.

        table: `embeddings.table()`, from a caller who needs it too: so its gradients meet.
        """
        embedded, rest = (None, None) if key is None else jax.random.split(key)
        keys = None if rest is None else jax.random.split(rest, self.count)
        x = self.embeddings(tokens, token_types, embedded, position_ids, table)
        structure, weights = nnx.split(self.layers)
        layers = (weights, keys)

        def run(first: int | None, x: Array, layer: tuple[nnx.State, PRNGKeyArray | None]) -> tuple[Array, None]:
            weights, key = layer
            return nnx.merge(structure, weights)(x, segments, key, first), None

        if self.remat != "none":
            # where there is no loop, the compiler would merge what is computed again with what was computed before
            looped = self.unroll < self.count and first is None
            run = jax.checkpoint(run, policy=REMAT[self.remat], prevent_cse=not looped, static_argnums=0)
        whole = functools.partial(run, None)
        if first is None:
            return scan(whole, x, layers, self.unroll)
        last = jax.tree.map(lambda leaf: leaf[-1], layers)
        x = scan(whole, x, jax.tree.map(lambda leaf: leaf[:-1], layers), self.unroll)
        return run(first, x, last)[0]

    def inputs(self, tokens: Int[AnyArray, "B T"]) -> Float[Array, "L B T D"]:
        """What each layer reads, without dropout and padding."""
        structure, weights = nnx.split(self.layers)

        def run(x: Array, weights: nnx.State) -> tuple[Array, Array]:
            return nnx.merge(structure, weights)(x, None, None), x

        return jax.lax.scan(run, self.embeddings(tokens, None, None), weights)[1]


def scan(run: Callable[[Array, Any], tuple[Array, None]], x: Array, layers: Any, unroll: int) -> Array:
    """x after all layers, a loop of which each turn runs `unroll`, or as many as divide them evenly."""
    count = jax.tree.leaves(layers)[0].shape[0]
    group = math.gcd(unroll, count)
    if unroll >= count or group == 1:
        return jax.lax.scan(run, x, layers, unroll=unroll >= count)[0]

    # by hand, because the scan's own partial unrolling fails on weights that are `reduced` (jax 0.10.2)
    def turn(x: Array, layers: Any) -> tuple[Array, None]:
        for i in range(group):
            x, _ = run(x, jax.tree.map(lambda leaf, i=i: leaf[i], layers))
        return x, None

    groups = jax.tree.map(lambda leaf: leaf.reshape(count // group, group, *leaf.shape[1:]), layers)
    return jax.lax.scan(turn, x, groups)[0]


REMAT = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}
