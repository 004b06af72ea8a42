"""The state of training: the step number, the parameters, the optimizer's moments and counters, the moving average."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from symbert_jax.config import Config
from symbert_jax.model import bert
from symbert_jax.train.optimizer import make_optimizer


class State(NamedTuple):
    """The state after `step` updates."""

    step: Int[Array, ""]
    params: bert.Params
    optimizer: Any
    ema: bert.Params | None = None  # the moving average of the parameters; None without `optim.ema`


def init(config: Config) -> State:
    """Returns the state before the first update, a function of `config.seed`, sharded over the current mesh."""
    return init_from_params(config, bert.init(config.model, config.mesh, jax.random.key(config.seed)))


def init_from_params(config: Config, params: bert.Params) -> State:
    """Returns the state before the first update, with these parameters, as the average too, and a fresh optimizer."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract(config).optimizer)
    init_optimizer = jax.jit(make_optimizer(config.optim).init, out_shardings=shardings)
    return State(jnp.zeros((), jnp.int32), params, init_optimizer(params), init_ema(config, params))


def init_ema(config: Config, params: bert.Params) -> bert.Params | None:
    """Returns the moving average before the first update of it: a copy, because a step consumes both."""
    return jax.jit(lambda params: jax.tree.map(jnp.copy, params))(params) if config.optim.ema else None


def abstract(config: Config) -> State:
    """Returns the state with the shape, type and sharding of each array instead of the array."""
    params = bert.abstract(config.model, config.mesh)
    step = jax.ShapeDtypeStruct((), jnp.int32, sharding=_replicated())
    moments = abstract_moments(make_optimizer(config.optim).init, params)
    return State(step, params, moments, params if config.optim.ema else None)  # type: ignore[arg-type]


def abstract_moments(init: Callable[[bert.Params], Any], params: bert.Params) -> Any:
    """Returns what an optimizer's `init` makes of abstract `params`: shapes, types and shardings instead of arrays.

    A moment has the sharding of its parameter; counters are replicated.
    """

    def with_sharding(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=_replicated(leaf.ndim))
        sharding = NamedSharding(jax.sharding.get_mesh(), leaf.sharding.spec)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(with_sharding, jax.eval_shape(init, params))


def _replicated(dimensions: int = 0) -> NamedSharding:
    return NamedSharding(jax.sharding.get_mesh(), PartitionSpec(*[None] * dimensions))
