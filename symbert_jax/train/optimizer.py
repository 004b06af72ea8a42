"""AdamW and LAMB with clipping by global norm, and the learning rate: linear warmup, then one of several decays."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from symbert_jax.config import OptimConfig

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


def make_optimizer(optim: OptimConfig) -> optax.GradientTransformation:
    """Returns the optimizer without its learning rate.

    It consists of clipping (unless `optim.clip` is 0), Adam's scaling, decoupled weight decay and, for LAMB, the trust
    ratio. The last two leave out biases and the parameters of LayerNorm.

    The caller subtracts the product of the update and the learning rate.
    """
    if optim.name == "adamw":
        rescale = optax.identity()
    else:
        rescale = optax.masked(scale_by_layer_trust_ratio(), decay_mask)
    return optax.chain(
        optax.clip_by_global_norm(optim.clip) if optim.clip else optax.identity(),
        optax.scale_by_adam(optim.b1, optim.b2, optim.eps),
        optax.add_decayed_weights(optim.weight_decay, mask=decay_mask),
        rescale,
    )


def scale_by_layer_trust_ratio() -> optax.GradientTransformation:
    """Returns the scaling of updates by LAMB's |w| / |update| (You et al., 2020).

    Parameters under `layers` have a leading layer dimension; each layer gets its own ratio.
    """
    ratio = optax.scale_by_trust_ratio()

    def update(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
        def scale(layer_update: Any, weight: Any) -> Any:
            return ratio.update(layer_update, state, weight)[0]

        scaled = {
            part: (jax.vmap(scale) if part == "layers" else scale)(updates[part], params[part]) for part in updates
        }
        return scaled, state

    return optax.GradientTransformation(ratio.init, update)


def decay_mask(params: Any) -> Any:
    """Returns a tree of booleans: whether weight decay, and with LAMB the trust ratio, apply to each parameter."""
    return jax.tree.map_with_path(lambda path, _: path[-1].key not in UNDECAYED, params)
