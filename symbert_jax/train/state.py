"""What one step hands to the next: the step counter, the parameters and the optimizer's moments."""

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


def init(config: Config) -> State:
    """The state before the first update, a function of `config.seed`, sharded over the current mesh."""
    params = bert.init(config.model, config.mesh, jax.random.key(config.seed))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract(config).optimizer)
    moments = jax.jit(make_optimizer(config.optim, config.train.steps).init, out_shardings=shardings)
    return State(jnp.zeros((), jnp.int32), params, moments(params))


def abstract(config: Config) -> State:
    """Shape, type and sharding of every array of the state, without any array.

    Moments live where their parameter lives; scalars have no dimension to shard.
    """
    mesh = jax.sharding.get_mesh()
    replicated = NamedSharding(mesh, PartitionSpec())
    params = bert.abstract(config.model, config.mesh)
    optimizer = jax.eval_shape(make_optimizer(config.optim, config.train.steps).init, params)

    def place(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(mesh, leaf.sharding.spec) if leaf.ndim else replicated
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    step = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated)
    return State(step, params, jax.tree.map(place, optimizer))  # type: ignore[arg-type]
