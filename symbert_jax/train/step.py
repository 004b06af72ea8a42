"""One optimizer step: the objective of a batch, its gradient, the update.

An objective returns, by name, sums and the number of items in each. Training minimizes the mean of "loss" and reports
all means. Other modules rely on no name but "loss", so an objective may return further names.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from symbert_jax.batch import MlmBatch
from symbert_jax.config import Config, ModelConfig, OptimConfig
from symbert_jax.data.masking import max_train_predictions
from symbert_jax.model import bert
from symbert_jax.model.documents import find_segments
from symbert_jax.sharding import spec
from symbert_jax.train.optimizer import make_optimizer, schedule
from symbert_jax.train.state import State

DROPOUT_STREAM = 2**32 - 1  # folded into the keys of dropout, which thus differ from those of initial parameters
Sums = dict[str, tuple[Float[Array, ""], Float[Array, ""]]]  # name -> (sum, number of items in it)
Objective = Callable[[bert.Params, Any, PRNGKeyArray], Sums]  # (params, batch, dropout key) -> sums


def make_train_step(
    config: Config, may_lack_targets: bool = False, pad: int | None = None
) -> Callable[[State, MlmBatch], tuple[State, Sums]]:
    """Returns the compiled step of pretraining. It consumes the state; batch i takes state i to state i + 1.

    may_lack_targets: whether a batch may have no token to predict.
    pad: the id of [PAD] if rows may have padding.
    """
    objective = functools.partial(mlm_objective, config.model, cross_document=config.data.cross_document, pad=pad)
    update = make_update(objective, config.optim, may_lack_targets)
    compute_learning_rate = schedule(config.optim, config.train.steps)

    def step(state: State, batch: MlmBatch, learning_rate: Float[Array, ""] | None = None) -> tuple[State, Sums]:
        key = jax.random.fold_in(jax.random.key(config.seed), DROPOUT_STREAM)
        return update(state, batch, key, compute_learning_rate(state.step) if learning_rate is None else learning_rate)

    compiled = jax.jit(step, donate_argnums=0)
    return _SharedStep(compiled, jax.jit(compute_learning_rate)) if config.optim.schedule == "wsd" else compiled


@dataclasses.dataclass(frozen=True)
class _SharedStep:
    """A compiled step with the learning rate as an argument, which another program computes.

    So a run and its branches take their steps with the same program. Two programs with different schedules may round an
    update differently at steps with the same learning rate.
    """

    step: Any
    learning_rate: Any  # a compiled function of the step number

    def __call__(self, state: State, batch: MlmBatch) -> tuple[State, Sums]:
        stepped: tuple[State, Sums] = self.step(state, batch, self.learning_rate(state.step))
        return stepped

    def lower(self, state: State, batch: MlmBatch) -> Any:
        """Returns the lowered step, like the method of a function that `jax.jit` returns."""
        learning_rate = jax.ShapeDtypeStruct((), jnp.float32, sharding=state.step.sharding)
        return self.step.lower(state, batch, learning_rate)


def abstract_batch(config: Config, max_predictions: int | None = None) -> MlmBatch:
    """Returns a batch as `put_batch` makes it, with the shape, type and sharding of each array instead of the array.

    max_predictions: M; None: that of training.
    """
    sharding = jax.NamedSharding(jax.sharding.get_mesh(), spec("B"))

    def array(columns: int, dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((config.data.batch_size, columns), dtype, sharding=sharding)

    predictions = max_train_predictions(config) if max_predictions is None else max_predictions
    tokens, positions, targets = (
        array(columns, jnp.int32) for columns in (config.model.length, predictions, predictions)
    )
    weights = array(predictions, jnp.float32)
    return MlmBatch(tokens, positions, targets, weights)  # type: ignore[arg-type]


def make_update(
    objective: Objective, optim: OptimConfig, may_be_empty: bool = False
) -> Callable[..., tuple[State, Sums]]:
    """Returns the pure update (state, batch, dropout key, learning rate, weight decay) -> (state, sums).

    The weight decay is optional: None is that of `optim`.

    may_be_empty: whether the count of "loss" may be 0. A batch with this count changes neither parameters nor moments
      nor the optimizer's own count of updates; the step number, and with it the learning rate and the data, advances.

    The sums are those of the objective and "grad_norm", the norm of the gradient before clipping. The count of
    "grad_norm" is 1, or 0 if the count of "loss" is 0.
    """

    def total_loss(params: bert.Params, batch: Any, key: PRNGKeyArray) -> tuple[Float[Array, ""], Sums]:
        sums = objective(params, batch, key)
        return sums["loss"][0], sums

    def mean_loss(params: bert.Params, batch: Any, key: PRNGKeyArray) -> tuple[Float[Array, ""], Sums]:
        total, sums = total_loss(params, batch, key)
        return total / jnp.maximum(sums["loss"][1], 1), sums

    def accumulate(params: bert.Params, batch: Any, key: PRNGKeyArray) -> tuple[bert.Params, Sums]:
        """Returns the gradient of the mean loss, and the sums; computes one micro-batch after another."""
        micro_batches = jax.tree.map(lambda rows: _split_rows(rows, optim.accumulate), batch)
        keys = jax.random.split(key, optim.accumulate)
        sums = jax.eval_shape(objective, params, batch, key)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), sums)

        def add(total: tuple[bert.Params, Sums], part: tuple[Any, PRNGKeyArray]) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, jax.grad(total_loss, has_aux=True)(params, *part)), None

        start = (jax.tree.map(jnp.zeros_like, params), zeros)
        (gradients, sums), _ = jax.lax.scan(add, start, (micro_batches, keys))
        return jax.tree.map(lambda leaf: leaf / jnp.maximum(sums["loss"][1], 1), gradients), sums

    def update(
        state: State, batch: Any, key: PRNGKeyArray, learning_rate: Array, weight_decay: Array | None = None
    ) -> tuple[State, Sums]:
        optimizer = make_optimizer(optim, weight_decay)
        key = jax.random.fold_in(key, state.step)
        # Without micro-batches, the loss is divided by the count, which saves a pass over all gradients.
        compute_gradients = accumulate if optim.accumulate > 1 else jax.grad(mean_loss, has_aux=True)
        gradients, sums = compute_gradients(state.params, batch, key)
        is_empty = sums["loss"][1] == 0
        with jax.named_scope("optimizer"):
            updates, moments = optimizer.update(gradients, state.optimizer, state.params)
            sums["grad_norm"] = (optax.tree.norm(gradients), jnp.where(is_empty, 0.0, 1.0))
            params = jax.tree.map(lambda weight, change: weight - learning_rate * change, state.params, updates)
            ema = state.ema and update_ema(optim.ema, state.ema, params, state.step)
            if may_be_empty:  # not always, because this costs 6% of a step by the TPU compiler's estimate
                old, new = (state.params, state.optimizer, state.ema), (params, moments, ema)
                params, moments, ema = jax.tree.map(functools.partial(jnp.where, is_empty), old, new)
        return State(state.step + 1, params, moments, ema), sums

    return update


def update_ema(decay: float, ema: bert.Params, params: bert.Params, step: Array) -> bert.Params:
    """Returns the moving average after the update `step`, from 0.

    Early in a run the decay is lower, as in TensorFlow's ExponentialMovingAverage, so that the average forgets the
    initial parameters.
    """
    weight = 1 - jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda old, new: old + weight * (new - old), ema, params)


def mlm_objective(
    model: ModelConfig,
    params: bert.Params,
    batch: MlmBatch,
    key: PRNGKeyArray | None,
    cross_document: bool = True,
    pad: int | None = None,
) -> Sums:
    """Returns sums over the weighted positions: cross entropy in nats ("loss"), correct predictions ("accuracy").

    cross_document, pad: see `find_segments`.
    """
    segments, position_ids = find_segments(batch.tokens, cross_document, pad)
    logits = bert.logits(
        model, params, batch.tokens, batch.positions, segments=segments, position_ids=position_ids, key=key
    )
    with jax.named_scope("loss"):
        # logsumexp minus a masked sum, because a gather over a sharded vocabulary would collect all logits
        ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2, out_sharding=jax.typeof(logits).sharding)
        target_logits = jnp.sum(jnp.where(ids == batch.targets[..., None], logits, 0), axis=-1)
        loss = jnp.sum(batch.weights * (jax.nn.logsumexp(logits, axis=-1) - target_logits))
        correct = jnp.sum(batch.weights * (target_logits >= logits.max(axis=-1)))
        count = jnp.sum(batch.weights)
    return {"loss": (loss, count), "accuracy": (correct, count)}


def _split_rows(rows: Array, parts: int) -> Array:
    """Reshapes [B, ...] to [parts, B / parts, ...]; each part has every parts-th row, so no row changes device."""
    return jnp.moveaxis(rows.reshape(rows.shape[0] // parts, parts, *rows.shape[1:]), 1, 0)
