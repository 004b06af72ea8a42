"""Trains the trials of a group in parallel, selects the epoch of each, and predicts."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from symbert_jax.batch import Array as AnyArray
from symbert_jax.config import MeshConfig, ModelConfig
from symbert_jax.eval import scores, steps
from symbert_jax.eval.batches import (
    PADDING_ROW,
    PlannedBatch,
    TokenizedSplit,
    prediction_plan,
    steps_per_epoch,
    training_plan,
)
from symbert_jax.eval.protocols import Protocol
from symbert_jax.eval.task_data import TaskData
from symbert_jax.eval.tasks import Task
from symbert_jax.eval.trials import Trial, TrialResult
from symbert_jax.model.tree import Params
from symbert_jax.progress import Progress
from symbert_jax.sharding import local_row_indices, put_batch
from symbert_jax.train.optimizer import schedule
from symbert_jax.train.state import State

PREDICTION_ROWS = 64  # the fewest rows of a batch for prediction
STEPS_AHEAD = 8  # the host dispatches this many steps before it waits for the devices

Logits = dict[str, Float[np.ndarray, "rows C"]]  # by the keys of `TaskData.validation` and `TaskData.test`


class TaskRun(NamedTuple):
    """The arguments that all trials of a task on one checkpoint share."""

    task: Task
    data: TaskData
    protocol: Protocol
    model: ModelConfig
    mesh_config: MeshConfig
    encoder: Params  # the parameters that every trial starts from, see `classifier.pretrained`


class TrialGroup(NamedTuple):
    """Trials of one batch size and number of epochs that are trained in parallel, as one compiled program."""

    trials: Sequence[Trial]
    size: int  # R, the number of trials that the program trains, padding included

    @property
    def epochs(self) -> int:
        return self.trials[0].epochs

    @property
    def padded(self) -> list[Trial]:
        """The trials, padded to R with copies of the last one, because another R would need a recompilation."""
        return [*self.trials, *[self.trials[-1]] * (self.size - len(self.trials))]


class TrialOutcome(NamedTuple):
    """A trained trial."""

    result: TrialResult
    logits: Logits  # for all validation and test splits, at the selected epoch


def train(run: TaskRun, group: TrialGroup, progress: Progress) -> tuple[list[TrialOutcome], Params]:
    """Trains the trials of a group, each with its own copy of the encoder and its own head.

    Returns the outcomes of the trials, and the parameters of all R trials, padding included, at the selected epochs.
    """
    start = time.perf_counter()
    trials, last_epoch = group.padded, group.epochs
    learning_rates, state = _learning_rates(run, group), _init_state(run, trials)
    selected: list[TrialOutcome] = []
    params: Params = {}
    for epoch in range(1, last_epoch + 1):
        state = _train_epoch(run, group, state, learning_rates, epoch, progress)
        if epoch < last_epoch and run.protocol.select == "last":
            continue
        outcomes = _evaluate(run, trials, state.params, epoch)
        improved = _improved(outcomes, selected)
        selected = [outcomes[i] if improved[i] else selected[i] for i in range(len(trials))]
        if epoch == last_epoch and improved.all():
            params = state.params
        else:  # a copy, because the next step consumes the state
            params = _merge(improved, state.params, params or state.params)
    if run.data.test:
        for outcome, logits in zip(selected, predict(run, params, run.data.test), strict=True):
            outcome.logits.update(logits)
    seconds = round((time.perf_counter() - start) / len(group.trials), 1)
    selected = [each._replace(result=dataclasses.replace(each.result, seconds=seconds)) for each in selected]
    return selected[: len(group.trials)], params


def predict(run: TaskRun, params: Params, splits: Mapping[str, TokenizedSplit]) -> list[Logits]:
    """Returns the logits of each of R trials for every example, on every process.

    params: the parameters of the trials, with a leading dimension R.
    """
    step, row_multiple = steps.make_prediction_step(run.model, run.task.num_outputs), _row_multiple()
    num_trials = jax.tree.leaves(params)[0].shape[0]
    all_logits: list[Logits] = [{} for _ in range(num_trials)]
    for name, split in splits.items():
        logits = np.empty((num_trials, len(split), run.task.num_outputs), np.float32)
        for planned in prediction_plan(split, -(-PREDICTION_ROWS // row_multiple) * row_multiple):
            batch_logits = np.asarray(step(params, put_batch(split.batch(_local_part(planned)))))
            is_example = planned.indices != PADDING_ROW
            logits[:, planned.indices[is_example]] = batch_logits[:, is_example]
        for i, trial_logits in enumerate(logits):
            all_logits[i][name] = trial_logits
    return all_logits


def _learning_rates(run: TaskRun, group: TrialGroup) -> Float[np.ndarray, "steps R"]:
    trials = group.padded
    num_steps = steps_per_epoch(run.data.train, trials[0].batch_size) * group.epochs
    optims = [run.protocol.optim_config(trial.learning_rate, num_steps) for trial in trials]
    rates = [schedule(optim, num_steps)(jnp.arange(num_steps)) for optim in optims]
    return np.stack(rates, axis=1).astype(np.float32)


def _weight_decays(run: TaskRun, trials: Sequence[Trial]) -> steps.WeightDecays:
    if not run.protocol.weight_decays:
        return None
    decays = [run.protocol.decay_factor(trial.weight_decay, trial.learning_rate) for trial in trials]
    return np.array(decays, np.float32)


def _init_state(run: TaskRun, trials: Sequence[Trial]) -> State:
    mesh = jax.sharding.get_mesh()
    init = steps.make_init(run.model, run.task.num_outputs, run.protocol.optim, run.mesh_config, mesh, len(trials))
    return init(run.encoder, _seeds(trials))


def _train_epoch(
    run: TaskRun,
    group: TrialGroup,
    state: State,
    learning_rates: Float[np.ndarray, "steps R"],
    epoch: int,
    progress: Progress,
) -> State:
    """Returns the states after one more epoch. `progress` counts tokens without padding tokens and padding trials."""
    trials, split = group.padded, run.data.train
    train_step, seeds = steps.make_train_step(run.model, run.task.num_outputs, run.protocol.optim), _seeds(trials)
    weight_decays = _weight_decays(run, trials)
    plans = [training_plan(split, trial.batch_size, _row_multiple(), trial.seed, epoch) for trial in trials]
    progress.start_window()
    for step, planned_batches in enumerate(zip(*plans, strict=True), start=(epoch - 1) * len(plans[0])):
        local_batches = [split.batch(_local_part(planned)) for planned in planned_batches]
        batch = put_batch(jax.tree.map(lambda *arrays: np.stack(arrays), *local_batches), "RB")
        tokens = sum(split.count_tokens(planned) for planned in planned_batches[: len(group.trials)])
        program = train_step, batch.tokens.shape  # JAX compiles the step once for each shape
        with progress.step(program, tokens):
            state, sums = train_step(state, batch, seeds, learning_rates[step], weight_decays)
        if (step + 1) % STEPS_AHEAD == 0:
            jax.block_until_ready(sums)
            progress.end_window()  # also starts the next window
    return state


def _evaluate(run: TaskRun, trials: Sequence[Trial], params: Params, epoch: int) -> list[TrialOutcome]:
    """Returns the outcomes of the trials after an epoch, without the time that they took."""
    logits = predict(run, params, run.data.validation)
    return [_score_trial(run, trial, trial_logits, epoch) for trial, trial_logits in zip(trials, logits, strict=True)]


def _score_trial(run: TaskRun, trial: Trial, logits: Logits, epoch: int) -> TrialOutcome:
    splits, task = run.data.validation, run.task
    predictions = {name: scores.to_predictions(task, logits[name]) for name in splits}
    metrics = {name: scores.compute_metrics(task, predictions[name], split.labels) for name, split in splits.items()}
    first_split = next(iter(splits))
    collapsed = scores.is_collapsed(task, predictions[first_split], splits[first_split].labels)
    return TrialOutcome(TrialResult(trial, metrics, collapsed, epoch, seconds=0.0), logits)


def _improved(new: Sequence[TrialOutcome], old: Sequence[TrialOutcome]) -> Bool[np.ndarray, " R"]:
    """Returns which trials have a better score than before: all of them if there is no score before."""
    if not old:
        return np.ones(len(new), bool)
    return np.array([a.result.score > b.result.score for a, b in zip(new, old, strict=True)])


@jax.jit
def _merge(improved: Bool[AnyArray, " R"], new: Params, old: Params) -> Params:
    """Returns a copy of the parameters: `new` for the trials that improved, `old` for the others."""
    return jax.tree.map(lambda a, b: jnp.where(improved.reshape(-1, *[1] * (a.ndim - 1)), a, b), new, old)


def _seeds(trials: Sequence[Trial]) -> steps.Seeds:
    return np.array([trial.seed for trial in trials], np.int32)


def _row_multiple() -> int:
    """Returns the size of the mesh axis `data`. The number of rows in a batch must be a multiple of it."""
    return jax.sharding.get_mesh().shape["data"]


def _local_part(planned: PlannedBatch) -> PlannedBatch:
    """Returns the part of a batch that this process feeds to its devices."""
    rows = local_row_indices(len(planned.indices), jax.sharding.get_mesh())
    return planned._replace(indices=planned.indices[rows])
