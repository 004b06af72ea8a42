"""The order of events of a fine-tuning run: checkpoints, tasks, groups of trials, results.

Every trial starts from the same checkpoint with a head of its own, and ends as an entry of `trials.jsonl`; the
same command, run again, trains what is missing and writes the same results.
"""

import contextlib
import dataclasses
import itertools
import math
import os
import signal
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from etils import epath

from symbert_jax.checkpoint import Checkpoints, check_path, digest, load
from symbert_jax.config import FinetuneConfig, ModelConfig, fields
from symbert_jax.data.vocabulary import VOCAB
from symbert_jax.distributed import check_shared, connect_devices, same_on_all_processes, wait_for_all, workdir_lock
from symbert_jax.errors import UserError, printable
from symbert_jax.eval import report, saved
from symbert_jax.eval.inputs import TaskData, read_all
from symbert_jax.eval.protocols import Protocol, resolve
from symbert_jax.eval.tasks import Task, find
from symbert_jax.eval.training import train
from symbert_jax.eval.trials import Result, Trial
from symbert_jax.eval.workdir import Workdir
from symbert_jax.model.tree import Params
from symbert_jax.progress import Progress
from symbert_jax.sharding import check_split, make_mesh
from symbert_jax.storage import absolute


class Pretrained(NamedTuple):
    """The encoder of a checkpoint."""

    workdir: epath.Path
    params: Params
    model: ModelConfig
    sha256: str


class FinetuneRun(NamedTuple):
    """The arguments that all tasks share."""

    config: FinetuneConfig
    protocol: Protocol
    tasks: list[Task]
    workdir: Workdir
    progress: Progress


def finetune(config: FinetuneConfig, workdir: epath.Path) -> None:
    """Trains and scores every task on every checkpoint, prints the table, and leaves the results in `workdir`.

    Raises:
      UserError: checkpoints, data, protocol and mesh do not fit each other, or are not the same on every process, or
        another run writes to `workdir`.
    """
    with _end_at_signals():
        with same_on_all_processes() as facts:
            facts |= fields(config)
            protocol, tasks = resolve(config), find(config.tasks)
            for warm in {task.init_from for task in tasks if config.from_mnli and task.init_from} - {
                task.name for task in tasks
            }:
                raise UserError("from_mnli", f"True with tasks={','.join(config.tasks)}", f"{warm} among the tasks")
            if config.from_mnli or config.save_models:
                check_path(workdir, "workdir")
        with workdir_lock(workdir):
            _run_trials(config, protocol, tasks, workdir)


def _run_trials(config: FinetuneConfig, protocol: Protocol, tasks: list[Task], path: epath.Path) -> None:
    # MNLI before RTE, which may start from it
    trained = sorted((task for task in tasks if not task.predicted_by), key=lambda task: task.init_from)
    with same_on_all_processes() as facts:
        starts: dict[tuple[epath.Path, int], str] = {}  # the names of checkpoints, as the config gives them
        models = {}
        mesh = make_mesh(config.mesh)
        for name in config.checkpoint:
            folder = absolute(name, "checkpoint")
            for requested in config.checkpoint_steps or (None,):
                step, models[folder] = _read_model(folder, requested)
                starts.setdefault((folder, step), printable(name))
            check_split(models[folder], config.mesh, mesh)
        # All checkpoints and all data are read now: an error about them must not come after hours of training.
        data = read_all(config, protocol, tasks, models)
        workdir = Workdir(path)
        facts["checkpoint"] = [step for _, step in starts]
        facts["glue.source"] = [part.fingerprint() for folder, _ in starts for part in data[folder].values()]
        facts["workdir"] = [trial.key for trial in workdir.log.results]
    check_shared(path)
    each = len(protocol.batch_sizes) * len(protocol.learning_rates) * protocol.seeds
    sizes = [part.train.size for folder, _ in starts for part in data[folder].values()]
    work = each * protocol.epochs * sum(sizes)
    progress = Progress("trials", each * len(sizes), work=work, interval=60, is_shown=workdir.writes)
    run = FinetuneRun(config, protocol, tasks, workdir, progress)
    scored = []
    with jax.set_mesh(mesh), progress:
        connect_devices()
        for (folder, step), name in starts.items():
            pretrained = read(folder, step, protocol)
            found = {task: _task(run, pretrained, task, data[folder]) for task in trained}
            results = {task: found[task] for task in tasks if task in found}
            scored.append(report.Scored(name, step, pretrained.sha256, pretrained.model, results))
    if workdir.writes:
        report.write(config, protocol, scored, path)
        workdir.write_submission(scored[-1].results, data[folder])


@contextlib.contextmanager
def _end_at_signals() -> Iterator[None]:
    """Ends this process with one line at SIGTERM, SIGHUP or Ctrl-C; every file that it has written is whole.

    It ends at once, as by SIGKILL: an ordinary exit would wait for the other processes of the run.
    """

    def end(number: int, _: object) -> None:
        with contextlib.suppress(OSError):  # not `print`: the signal may have interrupted one
            os.write(2, f"\n{signal.Signals(number).name}: the same command trains what is missing\n".encode())
        os._exit(128 + number)

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in signals}
    handled = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}  # as nohup sets it
    for number in handled:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)


def _read_model(workdir: epath.Path, step: int | None) -> tuple[int, ModelConfig]:
    """The step and the model of a checkpoint, by default the latest.

    Raises:
      UserError: there is no such checkpoint.
    """
    checkpoints = Checkpoints(workdir)
    try:
        step = checkpoints.check_step(step)
        return step, checkpoints.config(step).model
    finally:
        checkpoints.close()


def read(workdir: epath.Path, step: int, protocol: Protocol) -> Pretrained:
    """The encoder of a checkpoint of a pretrain run, with the protocol's dropout.

    Every length is a compilation, so on an accelerator the layers are a loop, which compiles several times faster; a
    CPU compiles all of them as fast, and runs them a little faster.
    """
    params, config = load(workdir, step)
    unroll = 0 if jax.default_backend() == "cpu" else 1
    dropout = protocol.dropout
    model = dataclasses.replace(config.model, unroll=unroll, dropout=dropout, attention_dropout=dropout)
    encoder = {part: weights for part, weights in params.items() if part != "head"}
    return Pretrained(workdir, encoder, model, digest(encoder))


def parallel_trials(config: FinetuneConfig, model: ModelConfig, parameters: int, batch_size: int, length: int) -> int:
    """The number of trials that train side by side: as many as half the memory of a device holds.

    On a CPU it is one: three trials of 4 layers side by side took as long as one after the other.
    """
    if config.together:
        return config.together
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit") if device.platform != "cpu" else None
    if not limit:
        return 1
    # parameter, gradient and two moments; activations by Korthikanti et al. (2022), section 4
    rows = -(-batch_size // jax.sharding.get_mesh().shape["data"])
    activations = rows * length * model.layers * (34 * model.dim + 5 * model.heads * length)
    return max(1, int(limit / 2 / (16 * parameters + activations * np.dtype(model.dtype).itemsize / 2)))


def _task(run: FinetuneRun, pretrained: Pretrained, task: Task, datasets: dict[Task, TaskData]) -> list[Result]:
    """The results of every trial of a task; those that are missing are trained."""
    protocol, workdir, data = run.protocol, run.workdir, datasets[task]
    base_trial, encoder = _base_trial(run, pretrained, task, data), pretrained.params
    if run.config.from_mnli and task.init_from:
        (other,) = find((task.init_from,))
        other_trial = _base_trial(run, pretrained, other, datasets[other])
        best = saved.read(workdir.model_folder(pretrained.sha256, other_trial))
        encoder = {part: weights for part, weights in best.items() if part != "head"}
        base_trial = dataclasses.replace(base_trial, checkpoint=digest(encoder))
    folder = workdir.model_folder(pretrained.sha256, base_trial)
    best_score = workdir.saved_score(folder) if _keeps_model(run, task.name) else math.inf
    count = sum(leaf.size for leaf in jax.tree.leaves(encoder))
    groups: list[tuple[int, list[Trial]]] = []  # the trials per program, and those of the group
    for size in protocol.batch_sizes:
        trials = [
            dataclasses.replace(base_trial, batch_size=size, learning_rate=rate, seed=seed)
            for rate, seed in itertools.product(protocol.learning_rates, range(protocol.seeds))
        ]
        most = parallel_trials(run.config, pretrained.model, count, size, data.train.tokens.shape[1])
        most = -(-len(trials) // -(-len(trials) // most))  # as many groups, of similar size
        groups += [(most, trials[start : start + most]) for start in range(0, len(trials), most)]
    with (
        same_on_all_processes() as facts
    ):  # each process reads the files itself, and must train the same trials as the others
        missing = [
            (most, [trial for trial in group if not workdir.is_finished(trial, data, best_score)])
            for most, group in groups
        ]
        facts[f"trials of {task.name}"] = [(most, [trial.key for trial in group]) for most, group in missing]
    wanted = [trial for _, group in groups for trial in group]
    finished = len(wanted) - sum(len(group) for _, group in missing)
    run.progress.skip(finished, finished * protocol.epochs * data.train.size)
    for most, group in missing:
        if not group:
            continue
        outcomes, params = train(
            group,
            most,
            protocol,
            pretrained.model,
            run.config.mesh,
            encoder,
            task,
            data,
            run.progress,
        )
        workdir.write_predictions(outcomes, data)
        vocabulary = pretrained.workdir / VOCAB
        best_score = workdir.save_if_better(folder, best_score, outcomes, params, pretrained.model, vocabulary)
        wait_for_all("models and predictions")  # which the next task may start from
        results = [outcome.result for outcome in outcomes]
        workdir.log.add(results)  # last: with its result a trial counts as finished
        run.progress.finish(len(results))
        for result in results:
            run.progress.say(f"{report.trial_line(result)}  ({run.progress.standing})")
    return [workdir.log.results[trial] for trial in wanted]


def _base_trial(run: FinetuneRun, pretrained: Pretrained, task: Task, data: TaskData) -> Trial:
    """The fields that all trials of a task on a checkpoint share; batch size, learning rate and seed are 0."""
    return Trial(
        checkpoint=pretrained.sha256,
        data=data.fingerprint(),
        task=task.name,
        batch_size=0,
        learning_rate=0.0,
        seed=0,
        protocol=run.protocol.fingerprint,
    )


def _keeps_model(run: FinetuneRun, task: str) -> bool:
    """Whether the best model of a task is saved, for the user or for another task that starts from it."""
    return run.config.save_models or (run.config.from_mnli and any(other.init_from == task for other in run.tasks))
