"""The compiled steps of fine-tuning: R trials of a task in parallel, each with its own parameters.

One compilation per batch length serves all seeds, learning rates, weight decays and tasks with the same number of
outputs, because seeds, learning rates, weight decays and parameters are arguments, with a leading dimension R.
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
WeightDecays = Float[AnyArray, " R"] | None  # None: that of the optimizer's config, as a constant of the program


@functools.cache
def make_init(
    model: ModelConfig,
    num_outputs: int,
    optim: OptimConfig,
    mesh_config: MeshConfig,
    mesh: jax.sharding.Mesh,
    num_trials: int,
) -> Callable[[Params, Seeds], State]:
    """Returns the compiled function (encoder, seeds) -> states before the first update. Each seed draws a head.

    The encoder is what `classifier.pretrained` returns.

    mesh: the current mesh, an argument so that it is part of the cache key. num_trials: R.
    """
    init_optimizer = jax.vmap(make_optimizer(optim).init)

    def init(encoder: Params, seeds: Seeds) -> State:
        def init_params(seed: Int[Array, ""]) -> Params:
            head = classifier.init_head(model, num_outputs, jax.random.key(seed))
            return {**encoder, "head": head | encoder.get("head", {})}

        params = jax.vmap(init_params, axis_size=num_trials)(jnp.asarray(seeds))
        return State(jnp.zeros(num_trials, jnp.int32), params, init_optimizer(params))

    def stack(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(leaf.sharding.mesh, PartitionSpec(None, *leaf.sharding.spec))
        return jax.ShapeDtypeStruct((num_trials, *leaf.shape), leaf.dtype, sharding=sharding)

    params = jax.tree.map(stack, classifier.abstract(model, num_outputs, mesh_config))
    step = jax.ShapeDtypeStruct((num_trials,), jnp.int32, sharding=NamedSharding(mesh, spec("R")))
    abstract_state = State(step, params, abstract_moments(init_optimizer, params))  # type: ignore[arg-type]
    return jax.jit(init, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, abstract_state))


@functools.cache
def make_train_step(
    model: ModelConfig, num_outputs: int, optim: OptimConfig
) -> Callable[[State, GlueBatch, Seeds, LearningRates, WeightDecays], tuple[State, Sums]]:
    """Returns the compiled step (states, batches, seeds, learning rates, weight decays) -> (states, sums).

    It consumes the states.
    """
    update = make_update(functools.partial(objective, model, num_outputs), optim)

    def step(
        state: State,
        batch: GlueBatch,
        seed: Int[Array, ""],
        learning_rate: Float[Array, ""],
        weight_decay: Float[Array, ""] | None,
    ) -> tuple[State, Sums]:
        key = jax.random.fold_in(jax.random.key(seed), DROPOUT_STREAM)
        return update(state, batch, key, learning_rate, weight_decay)

    return jax.jit(jax.vmap(step), donate_argnums=0)


@functools.cache
def make_prediction_step(model: ModelConfig, num_outputs: int) -> Callable[[Params, GlueBatch], Float[Array, "R B C"]]:
    """Returns the compiled step (parameters, batch) -> logits of every trial, replicated on all devices."""

    def predict(params: Params, batch: GlueBatch) -> Float[Array, "R B C"]:
        predict_trial = functools.partial(logits, model, num_outputs, key=None)
        sharded_logits = jax.vmap(predict_trial, in_axes=(0, None))(params, batch)
        return reshard(sharded_logits, PartitionSpec(None, None, None))

    return jax.jit(predict)


def objective(model: ModelConfig, num_outputs: int, params: Params, batch: GlueBatch, key: PRNGKeyArray | None) -> Sums:
    """Returns the loss: the sum over the rows of weight 1, and their number.

    The loss of a row is the cross entropy in nats, or for a regression (one output) the squared error.
    """
    outputs = logits(model, num_outputs, params, batch, key)
    if num_outputs == 1:
        row_losses = jnp.square(outputs[:, 0] - batch.labels)
    else:
        label_logits = jax.nn.one_hot(batch.labels, num_outputs) * outputs
        row_losses = jax.nn.logsumexp(outputs, axis=-1) - jnp.sum(label_logits, axis=-1)
    return {"loss": (jnp.sum(batch.weights * row_losses), jnp.sum(batch.weights))}


def logits(
    model: ModelConfig, num_outputs: int, params: Params, batch: GlueBatch, key: PRNGKeyArray | None
) -> Float[Array, "B C"]:
    """Returns the logits of one trial; without a key there is no dropout."""
    position_ids = jnp.arange(batch.tokens.shape[1])
    return classifier.logits(
        model,
        num_outputs,
        params,
        batch.tokens,
        token_types=(position_ids >= batch.second_starts[:, None]).astype(jnp.int32),
        mask=position_ids < batch.lengths[:, None],
        key=key,
    )
