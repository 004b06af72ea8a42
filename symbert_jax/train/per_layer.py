"""Optimizers that look at a whole tensor: each layer counts as tensors of its own.

Parameters under `layers` have a leading layer dimension.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from symbert_jax.config import OptimConfig


def scale_by_layer_trust_ratio() -> optax.GradientTransformation:
    """Returns the scaling of updates by LAMB's |w| / |update| (You et al., 2020). Each layer gets its own ratio."""
    ratio = optax.scale_by_trust_ratio()

    def update(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
        return _map_layers(lambda updates, params: ratio.update(updates, state, params)[0], updates, params), state

    return optax.GradientTransformation(ratio.init, update)


def clip_surprising_updates(adamw: optax.GradientTransformation, optim: OptimConfig) -> optax.GradientTransformation:
    """Returns StableAdamW (Wortsman et al., 2023, algorithm 2), by which ModernBERT was trained.

    Where the gradient g of a tensor is larger than its second moment u tells, the update of this tensor, weight decay
    included, is divided by the root mean square of g / sqrt(u).

    adamw: a chain that begins with `optax.scale_by_adam`.
    """

    def update(gradients: Any, state: Any, params: Any) -> tuple[Any, Any]:
        updates, state = adamw.update(gradients, state, params)
        moments = optax.tree.bias_correction(state[0].nu, optim.b2, state[0].count)

        def clip(update: Array, gradient: Array, moment: Array) -> Array:
            surprise = jnp.sqrt(jnp.mean(jnp.square(gradient) / jnp.maximum(moment, optim.eps**2)))
            return update / jnp.maximum(surprise, 1.0)

        return _map_layers(lambda *trees: jax.tree.map(clip, *trees), updates, gradients, moments), state

    return optax.GradientTransformation(adamw.init, update)


def _map_layers(function: Callable[..., Any], *trees: Any) -> Any:
    """Calls a function of trees on each part of the parameters, and on each layer of the part `layers`."""
    return {
        part: (jax.vmap(function) if part == "layers" else function)(*(tree[part] for tree in trees))
        for part in trees[0]
    }
