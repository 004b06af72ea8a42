"""The order of events of a fine-tuning run: checkpoints, tasks, groups of trials, results.

Every trial starts from the same checkpoint with a head of its own, and ends as an entry of `trials.jsonl`; the
same command, run again, trains what is missing and writes the same results.
"""

import contextlib
import dataclasses
import io
import itertools
import math
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from etils import epath

from symbert_jax.checkpoint import Checkpoints, check_path, digest, load
from symbert_jax.config import Finetune, Model, fields
from symbert_jax.data.rows import VOCAB
from symbert_jax.data.tasks import TASKS, Task, find
from symbert_jax.distributed import agreed, connect, first, locked, require_shared, wait_for_all
from symbert_jax.errors import UserError, printable
from symbert_jax.eval import report, saved, scores
from symbert_jax.eval.inputs import Data, read_all
from symbert_jax.eval.progress import Progress
from symbert_jax.eval.protocols import Protocol, resolve
from symbert_jax.eval.training import Logits, Trained, train
from symbert_jax.eval.trials import Log, Result, Trial
from symbert_jax.model.tree import Params
from symbert_jax.sharding import check_split, make_mesh
from symbert_jax.storage import absolute, write_whole

MODELS, PREDICTIONS = "models", "predictions"


class Pretrained(NamedTuple):
    """The encoder of a checkpoint."""

    workdir: epath.Path
    params: Params
    model: Model
    sha256: str


class Run(NamedTuple):
    """What all tasks share."""

    config: Finetune
    protocol: Protocol
    tasks: list[Task]
    workdir: epath.Path
    log: Log
    progress: Progress


def finetune(config: Finetune, workdir: epath.Path) -> None:
    """Trains and scores every task on every checkpoint, prints the table, and leaves the results in `workdir`.

    Raises:
      UserError: checkpoints, data, protocol and mesh do not fit each other, or are not the same on every process, or
        another run writes to `workdir`.
    """
    with _ending_at_signals():
        with agreed() as facts:
            facts |= fields(config)
            protocol, tasks = resolve(config), find(config.tasks)
            for warm in {task.warm for task in tasks if config.from_mnli and task.warm} - {task.name for task in tasks}:
                raise UserError("from_mnli", f"True with tasks={','.join(config.tasks)}", f"{warm} among the tasks")
            if config.from_mnli or config.save_models:
                check_path(workdir, "workdir")
        with locked(workdir):
            _finetune(config, protocol, tasks, workdir)


def _finetune(config: Finetune, protocol: Protocol, tasks: list[Task], workdir: epath.Path) -> None:
    trained = sorted((task for task in tasks if not task.model), key=lambda task: task.warm)  # MNLI before RTE
    with agreed() as facts:
        starts: dict[tuple[epath.Path, int], str] = {}  # the names of checkpoints
        models = {}
        mesh = make_mesh(config.mesh)
        for name in config.checkpoint:
            folder = absolute(name, "checkpoint")
            for wanted in config.checkpoint_steps or (None,):
                step, models[folder] = _look_up(folder, wanted)
                starts.setdefault((folder, step), printable(name))
            check_split(models[folder], config.mesh, mesh)
        # all checkpoints and all data now: what is missing or damaged must not come out after hours of training
        data = read_all(config, protocol, tasks, models)
        workdir.mkdir(parents=True, exist_ok=True)
        log = Log(workdir, write=first())
        facts["checkpoint"] = [step for _, step in starts]
        facts["glue.source"] = [part.fingerprint() for folder, _ in starts for part in data[folder].values()]
        facts["workdir"] = [trial.key for trial in log.results]
    require_shared(workdir)
    each = len(protocol.batch_sizes) * len(protocol.learning_rates) * protocol.seeds
    sizes = [part.train.size for folder, _ in starts for part in data[folder].values()]
    progress = Progress(each * len(sizes), each * protocol.epochs * sum(sizes))
    run = Run(config, protocol, tasks, workdir, log, progress)
    scored = []
    with jax.set_mesh(mesh), contextlib.closing(progress):
        connect()
        for (folder, step), name in starts.items():
            pretrained = read(folder, step, protocol)
            found = {task: _task(run, pretrained, task, data[folder]) for task in trained}
            results = {task: found[task] for task in tasks if task in found}
            scored.append(report.Scored(name, step, pretrained.sha256, pretrained.model, results))
    if run.log.write:
        report.write(config, protocol, scored, workdir)
        _submit(workdir, scored[-1].results, data[folder])


@contextlib.contextmanager
def _ending_at_signals() -> Iterator[None]:
    """Ends this process with one line at SIGTERM, SIGHUP or Ctrl-C: whatever it has written is whole.

    It ends at once, as by SIGKILL: among several processes an ordinary exit would wait for the others.
    """

    def end(number: int, _: object) -> None:
        with contextlib.suppress(OSError):  # print cannot be used: the signal may have come in the middle of one
            os.write(2, f"\n{signal.Signals(number).name}: the same command trains what is missing\n".encode())
        os._exit(128 + number)

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {each: signal.getsignal(each) for each in signals}
    noted = [each for each, handler in before.items() if handler != signal.SIG_IGN]  # nohup ignores SIGHUP
    for each in noted:
        signal.signal(each, end)
    try:
        yield
    finally:
        for each in noted:
            signal.signal(each, before[each])


def _look_up(workdir: epath.Path, step: int | None) -> tuple[int, Model]:
    """The step of a checkpoint that is there, by default the latest, and its model.

    Raises:
      UserError: there is no such checkpoint.
    """
    checkpoints = Checkpoints(workdir)
    try:
        step = checkpoints.require(step)
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


def together(config: Finetune, model: Model, parameters: int, batch_size: int, length: int) -> int:
    """How many trials train side by side: as many as half the memory of a device holds.

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


def _task(run: Run, pretrained: Pretrained, task: Task, datasets: dict[Task, Data]) -> list[Result]:
    """The results of every trial of a task; those that are missing are trained."""
    protocol, data, same = run.protocol, datasets[task], _template(run, pretrained, task, datasets[task])
    encoder = pretrained.params
    if run.config.from_mnli and task.warm:
        (other,) = find((task.warm,))
        best = saved.read(_model(run, pretrained, _template(run, pretrained, other, datasets[other])))
        encoder = {part: weights for part, weights in best.items() if part != "head"}
        same = dataclasses.replace(same, checkpoint=digest(encoder))
    folder = _model(run, pretrained, same)
    best_saved = _saved_score(folder) if _keeps_model(run, task.name) else math.inf
    count = sum(leaf.size for leaf in jax.tree.leaves(encoder))
    groups: list[tuple[int, list[Trial]]] = []  # how many its program trains, and what
    for size in protocol.batch_sizes:
        trials = [
            dataclasses.replace(same, batch_size=size, learning_rate=rate, seed=seed)
            for rate, seed in itertools.product(protocol.learning_rates, range(protocol.seeds))
        ]
        most = together(run.config, pretrained.model, count, size, data.train.tokens.shape[1])
        most = -(-len(trials) // -(-len(trials) // most))  # as many groups, of like size
        groups += [(most, trials[first : first + most]) for first in range(0, len(trials), most)]
    with agreed() as facts:  # each process looks for itself, and must train what the others train
        missing = [
            (most, [trial for trial in group if not _finished(run, task, trial, data, best_saved)])
            for most, group in groups
        ]
        facts[f"trials of {task.name}"] = [(most, [trial.key for trial in group]) for most, group in missing]
    wanted = [trial for _, group in groups for trial in group]
    finished = len(wanted) - sum(len(group) for _, group in missing)
    run.progress.skip(finished, finished * protocol.epochs * data.train.size)
    for most, group in missing:
        if not group:
            continue
        trained, params = train(
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
        best_saved = _keep(run, pretrained, folder, data, trained, params, best_saved)
        run.log.add([each.result for each in trained])
        run.progress.report([each.result for each in trained])
    return [run.log.results[trial] for trial in wanted]


def _template(run: Run, pretrained: Pretrained, task: Task, data: Data) -> Trial:
    """What all trials of a task on a checkpoint share, without batch size, learning rate and seed."""
    return Trial(
        checkpoint=pretrained.sha256,
        data=data.fingerprint(),
        task=task.name,
        batch_size=0,
        learning_rate=0.0,
        seed=0,
        protocol=run.protocol.rest,
    )


def _finished(run: Run, task: Task, trial: Trial, data: Data, best_saved: float) -> bool:
    """Whether a trial has left all that is wanted of it: its result, its predictions, a model at least as good."""
    if trial not in run.log.results or best_saved < run.log.results[trial].score:
        return False
    return not data.test or _read_predictions(run.workdir, task, trial, data) is not None


def _saved_score(folder: epath.Path) -> float:
    """The score of the saved model in a folder, the same on every process; a damaged model is as good as none."""
    try:
        with agreed() as facts:
            facts["saved model"] = saved.describe(folder).score if saved.is_saved(folder) else -math.inf
            if saved.is_saved(folder):
                saved.read(folder)
    except UserError as error:
        if first():
            print(f"warning: {error}; it trains again", file=sys.stderr)
        return -math.inf
    score: float = facts["saved model"]
    return score


def _keeps_model(run: Run, task: str) -> bool:
    return run.config.save_models or (run.config.from_mnli and any(other.warm == task for other in run.tasks))


def _keep(
    run: Run,
    pretrained: Pretrained,
    folder: epath.Path,
    data: Data,
    trained: Sequence[Trained],
    params: Params,
    best_saved: float,
) -> float:
    """Writes what outlives the trials beside their results: predictions, and in `folder` the best model so far.

    best_saved: the score of the model that is in `folder`. Returns it as it is afterwards.
    """
    if data.test and run.log.write:
        for result, logits in trained:
            path = _predictions(run.workdir, result.trial, data)
            path.parent.mkdir(exist_ok=True)
            buffer = io.BytesIO()
            np.savez(buffer, **{name: logits[name] for name in data.test})  # type: ignore[arg-type]
            write_whole(path, buffer.getvalue())
    best = max(range(len(trained)), key=lambda i: trained[i].result.score)
    score, trial = trained[best].result.score, trained[best].result.trial
    if score > best_saved:
        best_saved, model = score, saved.Saved(score, trial.task, pretrained.model, trial.key)
        weights = jax.tree.map(lambda leaf: leaf[best], params)
        saved.write(folder, model, weights, pretrained.workdir / VOCAB, run.log.write)
    wait_for_all("models and predictions")  # which the next task may start from
    return best_saved


def _model(run: Run, pretrained: Pretrained, template: Trial) -> epath.Path:
    """Where the best model of a task is kept; another protocol or other data have another best."""
    return run.workdir / MODELS / pretrained.sha256[:8] / f"{template.task}-{template.key[:8]}"


def _predictions(workdir: epath.Path, trial: Trial, data: Data) -> epath.Path:
    return workdir / PREDICTIONS / f"{trial.task}-{trial.key}-{data.test_fingerprint()[:8]}.npz"


def _read_predictions(workdir: epath.Path, task: Task, trial: Trial, data: Data) -> Logits | None:
    """The logits of all that is to be predicted besides; None where they are missing or damaged."""
    path = _predictions(workdir, trial, data)
    if not path.exists():
        return None
    wanted = {name: ((len(part), task.outputs), np.dtype(np.float32)) for name, part in data.test.items()}
    try:
        found = dict(np.load(io.BytesIO(path.read_bytes())).items())
        same = {name: (array.shape, array.dtype) for name, array in found.items()} == wanted
    except Exception:  # what a damaged archive raises has no type in common
        return None
    return found if same else None


def _submit(workdir: epath.Path, found: dict[Task, list[Result]], datasets: dict[Task, Data]) -> None:
    """The files for the GLUE server, by the best trial of each task on the last of the checkpoints."""
    owners = {split.server: task for task in TASKS.values() for split in task.test}
    folder = workdir / "submission"
    for task, results in found.items():
        if not datasets[task].test:
            continue
        best = max(results, key=lambda result: result.score)
        folder.mkdir(exist_ok=True)
        predictions = _read_predictions(workdir, task, best.trial, datasets[task])
        if predictions is None:  # they were there when the trial counted as finished
            path = _predictions(workdir, best.trial, datasets[task])
            raise UserError("workdir", f"no predictions in {path}", "those of this run", "start the same command again")
        for name, logits in predictions.items():
            answers = scores.decide(owners[name], logits)
            write_whole(folder / name, report.submission(owners[name], answers))
