"""The compiled steps of fine-tuning: R trials of a task in parallel, each with its own parameters.

One compilation per batch length serves all seeds, learning rates and tasks with the same number of classes: seeds,
learning rates and parameters are arguments with a leading dimension R.
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
from symbert_jax.train.step import DROPOUT_STREAM, Sums, make_update

Seeds = Int[AnyArray, " R"]
LearningRates = Float[AnyArray, " R"]


@functools.cache
def make_init(
    model: ModelConfig,
    classes: int,
    optim: OptimConfig,
    mesh_config: MeshConfig,
    mesh: jax.sharding.Mesh,
    num_trials: int,
) -> Callable[[Params, Seeds], State]:
    """Returns the compiled function (encoder, seeds) -> states before the first update, which differ in their heads.

    mesh: the current one. num_trials: R.
    """
    init_optimizer = jax.vmap(make_optimizer(optim).init)

    def init(encoder: Params, seeds: Seeds) -> State:
        def init_params(seed: Int[Array, ""]) -> Params:
            return {**encoder, "head": classifier.init_head(model, classes, jax.random.key(seed))}

        params = jax.vmap(init_params, axis_size=num_trials)(jnp.asarray(seeds))
        return State(jnp.zeros(num_trials, jnp.int32), params, init_optimizer(params))

    def stack(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(leaf.sharding.mesh, PartitionSpec(None, *leaf.sharding.spec))
        return jax.ShapeDtypeStruct((num_trials, *leaf.shape), leaf.dtype, sharding=sharding)

    params = jax.tree.map(stack, classifier.abstract(model, classes, mesh_config))
    step = jax.ShapeDtypeStruct((num_trials,), jnp.int32, sharding=NamedSharding(mesh, spec("R")))
    target = State(step, params, abstract_moments(init_optimizer, params))  # type: ignore[arg-type]
    return jax.jit(init, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, target))


@functools.cache
def make_train_step(
    model: ModelConfig, classes: int, optim: OptimConfig
) -> Callable[[State, GlueBatch, Seeds, LearningRates], tuple[State, Sums]]:
    """Returns the compiled step (states, batches, seeds, learning rates) -> (states, sums). It consumes the states."""
    update = make_update(functools.partial(objective, model, classes), optim)

    def step(
        state: State, batch: GlueBatch, seed: Int[Array, ""], learning_rate: Float[Array, ""]
    ) -> tuple[State, Sums]:
        return update(state, batch, jax.random.fold_in(jax.random.key(seed), DROPOUT_STREAM), learning_rate)

    return jax.jit(jax.vmap(step), donate_argnums=0)


@functools.cache
def make_prediction_step(model: ModelConfig, classes: int) -> Callable[[Params, GlueBatch], Float[Array, "R B C"]]:
    """Returns the compiled step (parameters, batch) -> logits of every trial, replicated on all devices."""

    def predict(params: Params, batch: GlueBatch) -> Float[Array, "R B C"]:
        sharded = jax.vmap(functools.partial(logits, model, classes), in_axes=(0, None, None))(params, batch, None)
        return reshard(sharded, spec("RSC"))

    return jax.jit(predict)


def objective(model: ModelConfig, classes: int, params: Params, batch: GlueBatch, key: PRNGKeyArray | None) -> Sums:
    """Returns the cross entropy in nats, or with one class the squared error: its sum over rows, and their number."""
    outputs = logits(model, classes, params, batch, key)
    if classes == 1:
        row_losses = jnp.square(outputs[:, 0] - batch.labels)
    else:
        target = jax.nn.one_hot(batch.labels, classes) * outputs
        row_losses = jax.nn.logsumexp(outputs, axis=-1) - jnp.sum(target, axis=-1)
    return {"loss": (jnp.sum(batch.weights * row_losses), jnp.sum(batch.weights))}


def logits(
    model: ModelConfig, classes: int, params: Params, batch: GlueBatch, key: PRNGKeyArray | None
) -> Float[Array, "B C"]:
    position_ids = jnp.arange(batch.tokens.shape[1])
    return classifier.logits(
        model,
        classes,
        params,
        batch.tokens,
        token_types=(position_ids >= batch.second_starts[:, None]).astype(jnp.int32),
        mask=position_ids < batch.lengths[:, None],
        key=key,
    )
