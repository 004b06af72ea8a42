"""The optimizers, which clip by the global norm, and the learning rate: linear warmup, then one of several decays."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from symbert_jax.config import OptimConfig
from symbert_jax.train.muon import is_matrix, scale_by_muon
from symbert_jax.train.per_layer import clip_surprising_updates, scale_by_layer_trust_ratio

UNDECAYED = ("bias", "scale")  # the last name in the path of a bias or of a LayerNorm scale


def schedule(optim: OptimConfig, steps: int) -> optax.Schedule:
    """Returns the learning rate as a function of the number of updates so far.

    The rate rises from 0 to `optim.learning_rate`, or starts there without warmup, and reaches 0 at `steps`, unless the
    schedule is wsd without steps of decay.
    """
    peak, decay_steps = optim.learning_rate, steps - optim.warmup_steps
    warmup = optax.schedules.linear_schedule(0.0, peak, transition_steps=optim.warmup_steps)
    match optim.schedule:
        case "linear":
            decay = optax.schedules.linear_schedule(peak, 0.0, transition_steps=decay_steps)
        case "cosine":
            decay = optax.schedules.cosine_decay_schedule(peak, decay_steps)
        case "wsd":
            decay = _stable_then_decay(optim, decay_steps)
    return optax.schedules.join_schedules([warmup, decay], [optim.warmup_steps])


def _stable_then_decay(optim: OptimConfig, steps: int) -> optax.Schedule:
    """Returns the part of wsd after warmup, of `steps` steps. Until its decay begins, it does not depend on `steps`."""

    def learning_rate(step: Any) -> Any:
        # from 0 at the start of the decay to 1 at its end
        done = jnp.clip((step - (steps - optim.decay_steps)) / max(optim.decay_steps, 1), 0.0, 1.0)
        return optim.learning_rate * (1.0 - (done if optim.decay_shape == "linear" else jnp.sqrt(done)))

    return learning_rate


def make_optimizer(optim: OptimConfig, weight_decay: Float[Array, ""] | None = None) -> optax.GradientTransformation:
    """Returns the optimizer without its learning rate.

    It consists of clipping by the global norm (unless `optim.clip` is 0), the scaling of AdamW, LAMB, Muon or
    StableAdamW, and decoupled weight decay, which leaves out biases and the parameters of LayerNorm.

    The caller subtracts the product of the update and the learning rate.

    weight_decay: takes the place of `optim.weight_decay`, which is a constant of a compiled step.
    """
    clip = optax.clip_by_global_norm(optim.clip) if optim.clip else optax.identity()
    adam = optax.scale_by_adam(optim.b1, optim.b2, optim.eps)
    decay = optax.add_decayed_weights(optim.weight_decay if weight_decay is None else weight_decay, mask=decay_mask)
    match optim.name:
        case "adamw":
            return optax.chain(clip, adam, decay, optax.identity())  # the last part has the place of LAMB's
        case "lamb":
            return optax.chain(clip, adam, decay, optax.masked(scale_by_layer_trust_ratio(), decay_mask))
        case "muon":
            parts = {"muon": scale_by_muon(optim.momentum), "adam": adam}
            return optax.chain(clip, optax.partition(parts, _muon_labels), decay)
        case _:
            return optax.chain(clip, clip_surprising_updates(optax.chain(adam, decay), optim))


def _muon_labels(params: Any) -> Any:
    """Returns, for each parameter, which part of Muon updates it."""
    return jax.tree.map_with_path(lambda path, weight: "muon" if is_matrix(path, weight) else "adam", params)


def decay_mask(params: Any) -> Any:
    """Returns a tree of booleans: whether weight decay, and with LAMB the trust ratio, apply to each parameter."""
    return jax.tree.map_with_path(lambda path, _: path[-1].key not in UNDECAYED, params)
