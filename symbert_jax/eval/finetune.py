"""The order of events of a fine-tuning run: checkpoints, tasks, groups of trials, report.

Every trial starts from the encoder of a checkpoint or of a fine-tuned model, with a new head, and ends as a result in
`trials.jsonl`. The same command, started again, trains the trials that are missing and writes the same report.
"""

import contextlib
import dataclasses
import itertools
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
from etils import epath

from symbert_jax.checkpoint import Checkpoints, check_path, digest, load
from symbert_jax.config import FinetuneConfig, ModelConfig, values_by_name
from symbert_jax.distributed import check_shared, connect_devices, same_on_all_processes, workdir_lock
from symbert_jax.errors import UserError, printable
from symbert_jax.eval import report, saved
from symbert_jax.eval.protocols import Protocol, resolve
from symbert_jax.eval.task_data import TaskData, read_task_data
from symbert_jax.eval.tasks import TASKS, Task, find_tasks
from symbert_jax.eval.training import TaskRun, TrialGroup, train
from symbert_jax.eval.trials import Trial, TrialResult
from symbert_jax.eval.workdir import TaskFiles, Workdir
from symbert_jax.model import classifier
from symbert_jax.model.tree import Params
from symbert_jax.progress import Progress
from symbert_jax.sharding import check_split, make_mesh
from symbert_jax.storage import absolute
from symbert_jax.train.memory import max_parallel_runs


class PretrainedEncoder(NamedTuple):
    """The encoder of a checkpoint."""

    workdir: epath.Path
    params: Params
    model: ModelConfig
    sha256: str  # of `params`


class FinetuneRun(NamedTuple):
    """The arguments that all tasks and checkpoints share."""

    config: FinetuneConfig
    protocol: Protocol
    tasks: Sequence[Task]
    workdir: Workdir
    progress: Progress

    def saves_model(self, task: Task) -> bool:
        """Whether the best model of a task is saved, for the user or because another task starts from it."""
        return self.config.save_models or any(self.initial_task(other) == task for other in self.tasks)

    def initial_task(self, task: Task) -> Task | None:
        """Returns the task whose best model this task starts from, or None if it starts from the checkpoint."""
        return TASKS[task.init_from] if self.config.from_mnli and task.init_from else None


def finetune(config: FinetuneConfig, workdir: epath.Path) -> None:
    """Trains and scores every task on every checkpoint, prints the table of scores, and writes a report to `workdir`.

    Raises:
      UserError: checkpoints, data, protocol and mesh do not fit each other or differ between processes, or another run
        writes to `workdir`.
    """
    with _exit_at_signals():
        with same_on_all_processes() as facts:
            facts |= values_by_name(config)
            protocol, tasks = resolve(config), find_tasks(config.tasks)
            if config.from_mnli:
                _check_initial_models(config, tasks)
            if config.from_mnli or config.save_models:
                check_path(workdir, "workdir")  # Orbax writes the models, and cannot read them back from every path
        with workdir_lock(workdir):
            _train_and_report(config, protocol, tasks, workdir)


def _check_initial_models(config: FinetuneConfig, tasks: Sequence[Task]) -> None:
    """Raises `UserError` if a task starts from the model of a task that this run does not train."""
    names = {task.name for task in tasks}
    for task in tasks:
        if task.init_from and task.init_from not in names:
            found = f"True with tasks={','.join(config.tasks)}"
            raise UserError("from_mnli", found, f"{task.init_from} among the tasks")


def _train_and_report(config: FinetuneConfig, protocol: Protocol, tasks: Sequence[Task], path: epath.Path) -> None:
    with same_on_all_processes() as facts:
        mesh = make_mesh(config.mesh)
        checkpoints, model_configs = _find_checkpoints(config, mesh)
        # All data and the configs of all checkpoints are read now: an error must not come after hours of training.
        data = read_task_data(config, protocol, tasks, model_configs)
        workdir = Workdir(path)
        facts["checkpoint"] = [step for _, step in checkpoints]
        facts["glue.source"] = [each.fingerprint() for folder, _ in checkpoints for each in data[folder].values()]
        facts["workdir"] = [trial.key for trial in workdir.log.results]
    check_shared(path)
    per_task = [
        (protocol.for_task(task.name), each.train.num_tokens)
        for folder, _ in checkpoints
        for task, each in data[folder].items()
    ]
    num_trials = sum(each.num_trials for each, _ in per_task)
    work = sum(each.num_epochs * num_tokens for each, num_tokens in per_task)  # in tokens
    progress = Progress("trials", num_trials, work=work, interval=60, is_shown=workdir.is_writer)
    run = FinetuneRun(config, protocol, tasks, workdir, progress)
    # Tasks without `init_from` come first, because the others may start from their models.
    trainable_tasks = sorted((task for task in tasks if not task.predicted_by), key=lambda task: task.init_from)
    scored = []
    with jax.set_mesh(mesh), progress:
        connect_devices()
        for (folder, step), name in checkpoints.items():
            pretrained = read_encoder(folder, step, protocol, config.weights)
            results_by_task = {task: _train_task(run, pretrained, task, data[folder]) for task in trainable_tasks}
            # the report has the order of `tasks`
            results = {task: results_by_task[task] for task in tasks if task in results_by_task}
            scored.append(report.ScoredCheckpoint(name, step, pretrained.sha256, pretrained.model, results))
    if workdir.is_writer:
        report.write_report(config, protocol, scored, path)
        workdir.write_submission(scored[-1].results, data[folder])  # of the last checkpoint, as is `folder`


def _find_checkpoints(
    config: FinetuneConfig, mesh: jax.sharding.Mesh
) -> tuple[dict[tuple[epath.Path, int], str], dict[epath.Path, ModelConfig]]:
    """Returns the checkpoints, (workdir, step) -> the workdir as the config names it, and the model config by workdir.

    Raises:
      UserError: a checkpoint does not exist, or its model cannot be sharded over the mesh.
    """
    names: dict[tuple[epath.Path, int], str] = {}
    model_configs = {}
    for name in config.checkpoint:
        folder = absolute(name, "checkpoint")
        for requested_step in config.checkpoint_steps or (None,):
            step, model_configs[folder] = _read_model_config(folder, requested_step, config.weights)
            names.setdefault((folder, step), printable(name))
        check_split(model_configs[folder], config.mesh, mesh)
    return names, model_configs


def _read_model_config(workdir: epath.Path, step: int | None, weights: str) -> tuple[int, ModelConfig]:
    """Returns the step and the model config of a checkpoint, by default the latest.

    Raises:
      UserError: there is no such checkpoint, or it does not have the weights.
    """
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        step = checkpoints.check_step(step)
        checkpoints.find_weights(step, weights)
        return step, checkpoints.config(step).model


def read_encoder(workdir: epath.Path, step: int, protocol: Protocol, weights: str = "") -> PretrainedEncoder:
    """Returns the encoder of a checkpoint, with the protocol's dropout."""
    params, config = load(workdir, step, weights)
    # Every batch length costs a compilation. On an accelerator, the layers are a loop (1), which compiles several times
    # faster. On a CPU, all layers are unrolled (0), which compiles as fast and runs a little faster.
    unroll = 0 if jax.default_backend() == "cpu" else 1
    dropout = protocol.dropout
    model = dataclasses.replace(config.model, unroll=unroll, dropout=dropout, attention_dropout=dropout)
    encoder = classifier.pretrained(model, params)
    return PretrainedEncoder(workdir, encoder, model, digest(encoder))


def _train_task(
    run: FinetuneRun, pretrained: PretrainedEncoder, task: Task, data: Mapping[Task, TaskData]
) -> list[TrialResult]:
    """Trains the unfinished trials of a task on one checkpoint; returns the results of all its trials."""
    protocol = run.protocol.for_task(task.name)
    base_trial, encoder = _base_trial(run, pretrained, task, data), pretrained.params
    if initial_task := run.initial_task(task):
        initial_trial = _base_trial(run, pretrained, initial_task, data)
        finetuned = saved.read_params(run.workdir.model_folder(pretrained.sha256, initial_trial))
        encoder = classifier.pretrained(pretrained.model, finetuned)
        sha256 = digest(encoder)
        base_trial = dataclasses.replace(base_trial, checkpoint=sha256)
    folder = run.workdir.model_folder(pretrained.sha256, base_trial) if run.saves_model(task) else None
    files = TaskFiles(run.workdir, data[task], folder)
    task_run = TaskRun(task, data[task], protocol, pretrained.model, run.config.mesh, encoder)
    groups = _plan_groups(task_run, base_trial, run.config)
    unfinished = _unfinished_groups(groups, files)
    trials = [trial for group in groups for trial in group.trials]
    to_train = {trial for group in unfinished for trial in group.trials}
    finished_epochs = [trial.epochs for trial in trials if trial not in to_train]
    run.progress.skip(len(finished_epochs), sum(finished_epochs) * data[task].train.num_tokens)
    for group in unfinished:
        outcomes, params = train(task_run, group, run.progress)
        files.add(outcomes, params, pretrained.model, pretrained.workdir)
        run.progress.finish(len(outcomes))
        for outcome in outcomes:
            run.progress.say(f"{report.format_trial(outcome.result)}  ({run.progress.status})")
    return [run.workdir.log.results[trial] for trial in trials]


def _base_trial(run: FinetuneRun, pretrained: PretrainedEncoder, task: Task, data: Mapping[Task, TaskData]) -> Trial:
    """Returns a trial with the fields that all trials of a task on a checkpoint share.

    The other fields are 0. The protocol lacks its weight decay and its epochs if the task has several.
    """
    return Trial(
        checkpoint=pretrained.sha256,
        data=data[task].fingerprint(),
        task=task.name,
        batch_size=0,
        learning_rate=0.0,
        seed=0,
        protocol=run.protocol.for_task(task.name).fingerprint,
    )


def _plan_groups(task_run: TaskRun, base_trial: Trial, config: FinetuneConfig) -> list[TrialGroup]:
    """Returns all trials of a task in groups; the trials of a group are trained in parallel."""
    protocol, length = task_run.protocol, task_run.data.train.tokens.shape[1]
    num_params = sum(leaf.size for leaf in jax.tree.leaves(task_run.encoder))
    groups = []
    for batch_size, epochs in itertools.product(protocol.batch_sizes, protocol.epochs):
        grid = itertools.product(protocol.learning_rates, protocol.all_weight_decays, range(protocol.seeds))
        trials = [
            dataclasses.replace(
                base_trial,
                batch_size=batch_size,
                learning_rate=learning_rate,
                seed=seed,
                protocol=protocol.trial_fingerprint(epochs, weight_decay),
            )
            for learning_rate, weight_decay, seed in grid
        ]
        limit = max_parallel_trials(config, task_run.model, num_params, batch_size, length)
        num_groups = -(-len(trials) // limit)
        size = -(-len(trials) // num_groups)  # of similar size, not full groups and a small last one
        groups += [TrialGroup(trials[start : start + size], size) for start in range(0, len(trials), size)]
    return groups


def max_parallel_trials(
    config: FinetuneConfig, model: ModelConfig, num_params: int, batch_size: int, length: int
) -> int:
    """Returns the largest number of trials to train in parallel.

    It is `config.together`, or if that is 0, as many as `train.memory` estimates to fit.
    """
    return config.together or max_parallel_runs(model, num_params, batch_size, length)


def _unfinished_groups(groups: Sequence[TrialGroup], files: TaskFiles) -> list[TrialGroup]:
    """Returns the groups that have unfinished trials, without their finished trials."""
    with same_on_all_processes() as facts:  # each process reads the files, and all must train the same trials
        unfinished = [
            TrialGroup([trial for trial in group.trials if not files.is_finished(trial)], group.size)
            for group in groups
        ]
        keys = [(group.size, [trial.key for trial in group.trials]) for group in unfinished]
        facts[f"trials of {groups[0].trials[0].task}"] = keys
    return [group for group in unfinished if group.trials]


@contextlib.contextmanager
def _exit_at_signals() -> Iterator[None]:
    """Prints one line and exits at SIGTERM, SIGHUP or Ctrl-C.

    The process exits at once, as at SIGKILL: an ordinary exit would wait for the other processes of the run. This may
    truncate the last line of trials.jsonl, which the next start ignores.
    """

    def exit_now(number: int, _: object) -> None:
        line = f"\n{signal.Signals(number).name}: start the same command again to train the missing trials\n"
        with contextlib.suppress(OSError):
            os.write(2, line.encode())  # not `print`, which the signal may have interrupted: it is not reentrant
        os._exit(128 + number)

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.getsignal(number) for number in signals}
    # nohup lets the command ignore SIGHUP, which must stay ignored
    handled = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}
    for number in handled:
        signal.signal(number, exit_now)
    try:
        yield
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)
