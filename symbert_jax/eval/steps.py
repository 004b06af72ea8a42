"""The compiled steps of fine-tuning: several trials of a task side by side, each with its own parameters.

A trial is one seed at one learning rate. Trials share shapes, so that one compilation serves all seeds, rates
and tasks with the same number of classes: what differs arrives as arrays with a leading dimension R.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec, reshard
from jaxtyping import Array, Float, Int, PRNGKeyArray

from symbert_jax.batch import Array as AnyArray
from symbert_jax.batch import GlueBatch
from symbert_jax.config import MeshConfig, ModelConfig, OptimConfig
from symbert_jax.model import classifier
from symbert_jax.model.tree import Params
from symbert_jax.sharding import spec
from symbert_jax.train.optimizer import make_optimizer
from symbert_jax.train.state import State, abstract_moments
from symbert_jax.train.step import DROPOUT, Sums, make_update

Seeds = Int[AnyArray, " R"]
Rates = Float[AnyArray, " R"]


@functools.cache
def make_init(
    model: ModelConfig, classes: int, optim: OptimConfig, mesh: MeshConfig, devices: jax.sharding.Mesh, trials: int
) -> Callable[[Params, Seeds], State]:
    """(parameters of an encoder, seeds) -> the states before the first update, alike but for their heads.

    devices: the current mesh, on which they are born.
    """
    optimizer = jax.vmap(make_optimizer(optim).init)

    def init(encoder: Params, seeds: Seeds) -> State:
        def one(seed: Int[Array, ""]) -> Params:
            return {**encoder, "head": classifier.init_head(model, classes, jax.random.key(seed))}

        params = jax.vmap(one, axis_size=trials)(jnp.asarray(seeds))
        return State(jnp.zeros(trials, jnp.int32), params, optimizer(params))

    def stacked(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(leaf.sharding.mesh, PartitionSpec(None, *leaf.sharding.spec))
        return jax.ShapeDtypeStruct((trials, *leaf.shape), leaf.dtype, sharding=sharding)

    params = jax.tree.map(stacked, classifier.abstract(model, classes, mesh))
    step = jax.ShapeDtypeStruct((trials,), jnp.int32, sharding=NamedSharding(devices, spec("R")))
    target = State(step, params, abstract_moments(optimizer, params))  # type: ignore[arg-type]
    return jax.jit(init, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, target))


@functools.cache
def make_train_step(
    model: ModelConfig, classes: int, optim: OptimConfig
) -> Callable[[State, GlueBatch, Seeds, Rates], tuple[State, Sums]]:
    """(states, batches, seeds, learning rates) -> (states, sums); consumes the states."""
    update = make_update(functools.partial(objective, model, classes), optim)

    def step(state: State, batch: GlueBatch, seed: Int[Array, ""], rate: Float[Array, ""]) -> tuple[State, Sums]:
        return update(state, batch, jax.random.fold_in(jax.random.key(seed), DROPOUT), rate)

    return jax.jit(jax.vmap(step), donate_argnums=0)


@functools.cache
def make_prediction_step(model: ModelConfig, classes: int) -> Callable[[Params, GlueBatch], Float[Array, "R B C"]]:
    """Logits of one batch by every trial's parameters, whole on every process."""

    def predict(params: Params, batch: GlueBatch) -> Float[Array, "R B C"]:
        found = jax.vmap(functools.partial(logits, model, classes), in_axes=(0, None, None))(params, batch, None)
        return reshard(found, spec("RSC"))

    return jax.jit(predict)


def objective(model: ModelConfig, classes: int, params: Params, batch: GlueBatch, key: PRNGKeyArray | None) -> Sums:
    """Cross entropy in nats over the rows, or with one class the squared error."""
    found = logits(model, classes, params, batch, key)
    if classes == 1:
        each = jnp.square(found[:, 0] - batch.labels)
    else:
        target = jax.nn.one_hot(batch.labels, classes) * found
        each = jax.nn.logsumexp(found, axis=-1) - jnp.sum(target, axis=-1)
    return {"loss": (jnp.sum(batch.weights * each), jnp.sum(batch.weights))}


def logits(
    model: ModelConfig, classes: int, params: Params, batch: GlueBatch, key: PRNGKeyArray | None
) -> Float[Array, "B C"]:
    position_ids = jnp.arange(batch.tokens.shape[1])
    return classifier.logits(
        model,
        classes,
        params,
        batch.tokens,
        token_types=(position_ids >= batch.seconds[:, None]).astype(jnp.int32),
        mask=position_ids < batch.lengths[:, None],
        key=key,
    )
