"""One optimizer step: the loss of a batch, its gradient, the update."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from symbert_jax.batch import MlmBatch
from symbert_jax.config import Config, ModelConfig, OptimConfig
from symbert_jax.model import bert
from symbert_jax.model.documents import find_documents
from symbert_jax.train.optimizer import make_optimizer, schedule
from symbert_jax.train.state import State

DROPOUT = 2**32 - 1  # sets the keys of dropout apart from those that parameters are born with
Sums = dict[str, Float[Array, ""]]
Total = tuple[bert.Params, Sums]  # gradients and sums


def make_train_step(config: Config, may_lack_targets: bool = False) -> Callable[[State, MlmBatch], tuple[State, Sums]]:
    """The compiled step of pretraining. It consumes the state it is given; batch i takes state i to state i + 1.

    may_lack_targets: whether a batch may have no token to predict.
    """
    of_model = functools.partial(loss, config.model, cross_document=config.data.cross_document)
    update = make_update(of_model, config.optim, may_lack_targets)
    rate = schedule(config.optim, config.train.steps)

    def step(state: State, batch: MlmBatch) -> tuple[State, Sums]:
        key = jax.random.fold_in(jax.random.key(config.seed), DROPOUT)
        return update(state, batch, key, rate(state.step))

    return jax.jit(step, donate_argnums=0)


def make_update(
    loss: Callable[[bert.Params, Any, PRNGKeyArray], tuple[Float[Array, ""], Sums]],
    optim: OptimConfig,
    may_be_empty: bool = False,
) -> Callable[[State, Any, PRNGKeyArray, Array], tuple[State, Sums]]:
    """The pure update (state, batch, key of dropout, learning rate) -> (state, sums).

    loss: of (params, batch, key): a sum over the batch, and the sums to report with the `count` it is of.

    may_be_empty: whether the `count` of a batch may be 0. Such a batch changes neither parameters nor moments nor the
      optimizer's own count of updates; the step number, and with it the learning rate and the data, go on.

    Sums are over the batch and over steps (`grad_norm` before clipping); ratios are the reader's to form.
    """
    optimizer = make_optimizer(optim)
    gradient = jax.grad(loss, has_aux=True)

    def mean(params: bert.Params, batch: Any, key: PRNGKeyArray) -> tuple[Float[Array, ""], Sums]:
        total, sums = loss(params, batch, key)
        return total / jnp.maximum(sums["count"], 1), sums

    def update(state: State, batch: Any, key: PRNGKeyArray, rate: Array) -> tuple[State, Sums]:
        key = jax.random.fold_in(key, state.step)

        def add(total: Total, part: tuple[Any, PRNGKeyArray]) -> tuple[Total, None]:
            return jax.tree.map(jnp.add, total, gradient(state.params, *part)), None

        if (parts := optim.accumulate) == 1:
            # of the mean: to divide gradients afterwards would be a pass over all of them
            gradients, sums = jax.grad(mean, has_aux=True)(state.params, batch, key)
        else:
            cut = jax.tree.map(lambda rows: _micro_batches(rows, parts), batch)
            keys = jax.random.split(key, parts)
            nothing = jax.tree.map(jnp.zeros_like, state.params)
            empty = {name: jnp.zeros(()) for name in jax.eval_shape(gradient, state.params, batch, key)[1]}
            (gradients, sums), _ = jax.lax.scan(add, (nothing, empty), (cut, keys))
            gradients = jax.tree.map(lambda leaf: leaf / jnp.maximum(sums["count"], 1), gradients)
        with jax.named_scope("optimizer"):
            updates, moments = optimizer.update(gradients, state.optimizer, state.params)
            sums["grad_norm"] = optax.tree.norm(gradients)
            params = jax.tree.map(lambda weight, change: weight - rate * change, state.params, updates)
            if may_be_empty:  # by the TPU compiler's estimate this costs 6% of a step, so it is not done in vain
                new, old = (params, moments), (state.params, state.optimizer)
                params, moments = jax.tree.map(functools.partial(jnp.where, sums["count"] > 0), new, old)
        return State(state.step + 1, params, moments), sums

    return update


def loss(
    model: ModelConfig, params: bert.Params, batch: MlmBatch, key: PRNGKeyArray | None, cross_document: bool = True
) -> tuple[Float[Array, ""], Sums]:
    """Summed cross entropy in nats over the weighted positions, and the sums to report."""
    segments, position_ids = (None, None) if cross_document else find_documents(batch.tokens)
    logits = bert.logits(
        model, params, batch.tokens, batch.positions, segments=segments, position_ids=position_ids, key=key
    )
    with jax.named_scope("loss"):
        # logsumexp minus a masked sum, because a gather over a sharded vocabulary would collect all logits
        ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2, out_sharding=jax.typeof(logits).sharding)
        target = jnp.sum(jnp.where(ids == batch.targets[..., None], logits, 0), axis=-1)
        total = jnp.sum(batch.weights * (jax.nn.logsumexp(logits, axis=-1) - target))
        correct = jnp.sum(batch.weights * (target >= logits.max(axis=-1)))
    return total, {"loss": total, "correct": correct, "count": jnp.sum(batch.weights)}


def _micro_batches(rows: Array, parts: int) -> Array:
    """[B, ...] to [parts, B / parts, ...]; part i takes every parts-th row, so that no row changes device."""
    return jnp.moveaxis(rows.reshape(rows.shape[0] // parts, parts, *rows.shape[1:]), 1, 0)
