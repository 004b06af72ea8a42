"""One group of trials on the devices: trained side by side, then predicting."""

import dataclasses
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from symbert_jax.batch import Array as AnyArray
from symbert_jax.config import MeshConfig, ModelConfig
from symbert_jax.eval import scores, steps
from symbert_jax.eval.batches import Examples, PlannedBatch, prediction_plan, steps_per_epoch, training_plan
from symbert_jax.eval.inputs import TaskData
from symbert_jax.eval.protocols import Protocol
from symbert_jax.eval.tasks import Task
from symbert_jax.eval.trials import Result, Trial
from symbert_jax.model.tree import Params
from symbert_jax.progress import Progress
from symbert_jax.sharding import local_row_indices, put_batch
from symbert_jax.train.optimizer import schedule

PREDICTED = 64  # rows of a batch of predictions, about
AHEAD = 8  # steps that the host may run ahead of the devices

Logits = dict[str, Float[np.ndarray, "rows C"]]  # by the name of a split


class TrialOutcome(NamedTuple):
    result: Result
    logits: Logits  # of all validation and test splits, at the selected epoch


def train(
    wanted: Sequence[Trial],
    together: int,
    protocol: Protocol,
    model: ModelConfig,
    mesh: MeshConfig,
    encoder: Params,
    task: Task,
    data: TaskData,
    progress: Progress,
) -> tuple[list[TrialOutcome], Params]:
    """Trains trials of one batch size, each from `encoder` with a head of its own.

    together: R, the trials per compiled program. A smaller group is padded with copies of its last trial to avoid a
      recompile.
    progress: counts every step, with the tokens of the wanted trials.

    Returns the outcome of each trial, and the parameters at the selected epochs, with a leading dimension R.
    """
    trials = [*wanted, *[wanted[-1]] * (together - len(wanted))]
    began, size, classes = time.perf_counter(), trials[0].batch_size, task.outputs
    devices = jax.sharding.get_mesh()
    row_multiple, total = devices.shape["data"], steps_per_epoch(data.train, size) * protocol.epochs
    optims = [protocol.schedule(trial.learning_rate, total) for trial in trials]
    rates = np.stack([schedule(optim, total)(jnp.arange(total)) for optim in optims], axis=1).astype(np.float32)
    seeds = np.array([trial.seed for trial in trials], np.int32)
    state = steps.make_init(model, classes, protocol.optim, mesh, devices, len(trials))(encoder, seeds)
    train_step = steps.make_train_step(model, classes, protocol.optim)
    selected = [TrialOutcome(Result(trial, {}, False, 0, 0.0), {}) for trial in trials]
    params: Params = {}
    number = 0
    for epoch in range(1, protocol.epochs + 1):
        plans = [training_plan(data.train, size, row_multiple, trial.seed, epoch) for trial in trials]
        progress.start_window()
        for batches in zip(*plans, strict=True):
            rows = [data.train.batch(_local_rows(planned)) for planned in batches]
            batch = put_batch(jax.tree.map(lambda *parts: np.stack(parts), *rows), "RB")
            tokens = sum(data.train.count(planned) for planned in batches[: len(wanted)])
            with progress.step((train_step, batch.tokens.shape), tokens):
                state, sums = train_step(state, batch, seeds, rates[number])
            number += 1
            if number % AHEAD == 0:
                jax.block_until_ready(sums)
                progress.end_window()
        if epoch == protocol.epochs or protocol.select == "best":
            logits = predict(state.params, model, task, data.validation)
            new = [_score_trial(trial, task, found, data, epoch) for trial, found in zip(trials, logits, strict=True)]
            improved = np.array(
                [
                    protocol.select == "last" or not old.logits or late.result.score > old.result.score
                    for late, old in zip(new, selected, strict=True)
                ]
            )
            selected = [late if better else old for late, old, better in zip(new, selected, improved, strict=True)]
            if epoch == protocol.epochs and improved.all():
                params = state.params
            else:  # the next step consumes its state
                params = _merge(improved, state.params, params or state.params)
    if data.test:
        for each, more in zip(selected, predict(params, model, task, data.test), strict=True):
            each.logits.update(more)
    seconds = round((time.perf_counter() - began) / len(wanted), 1)
    found = [TrialOutcome(dataclasses.replace(each.result, seconds=seconds), each.logits) for each in selected]
    return found[: len(wanted)], params


def predict(params: Params, model: ModelConfig, task: Task, parts: dict[str, Examples]) -> list[Logits]:
    """Every trial's logits for every example, whole on every process."""
    step, row_multiple = steps.make_prediction_step(model, task.outputs), jax.sharding.get_mesh().shape["data"]
    trials = jax.tree.leaves(params)[0].shape[0]
    found: list[Logits] = [{} for _ in range(trials)]
    for name, examples in parts.items():
        whole = np.empty((trials, len(examples), task.outputs), np.float32)
        for planned in prediction_plan(examples, -(-PREDICTED // row_multiple) * row_multiple):
            logits = np.asarray(step(params, put_batch(examples.batch(_local_rows(planned)))))
            real = planned.rows >= 0
            whole[:, planned.rows[real]] = logits[:, real]
        for trial, logits in enumerate(whole):
            found[trial][name] = logits
    return found


def _local_rows(planned: PlannedBatch) -> PlannedBatch:
    """The rows of a batch that this process feeds to its devices."""
    return planned._replace(rows=planned.rows[local_row_indices(len(planned.rows), jax.sharding.get_mesh())])


def _score_trial(trial: Trial, task: Task, logits: Logits, data: TaskData, epoch: int) -> TrialOutcome:
    """The scores of a trial on its validation splits; the first of them decides whether the model collapsed."""
    decided = {split: (scores.decide(task, logits[split]), part.labels) for split, part in data.validation.items()}
    measured = {split: scores.measure(task, *pair) for split, pair in decided.items()}
    collapsed = scores.collapsed(task, *next(iter(decided.values())))
    return TrialOutcome(Result(trial, measured, collapsed, epoch, 0.0), logits)


@jax.jit
def _merge(improved: Bool[AnyArray, " R"], new: Params, old: Params) -> Params:
    """A copy of `new` for the trials that improved, of `old` for the others."""
    return jax.tree.map(lambda a, b: jnp.where(improved.reshape(-1, *[1] * (a.ndim - 1)), a, b), new, old)
