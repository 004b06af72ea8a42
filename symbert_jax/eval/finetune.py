"""The order of events of a fine-tuning run: checkpoints, tasks, groups of trials, results.

Every trial starts from the same checkpoint with a head of its own, and ends as an entry of `trials.jsonl`; the
same command, run again, trains what is missing and writes the same results.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from etils import epath

from symbert_jax.checkpoint import digest, load, require_step
from symbert_jax.config import Finetune, Model, fields, from_json
from symbert_jax.data.rows import VOCAB
from symbert_jax.data.tasks import TASKS, Task, find
from symbert_jax.distributed import agreed, connect, first, require_shared, wait_for_all
from symbert_jax.errors import UserError
from symbert_jax.eval import report, saved, scores
from symbert_jax.eval.inputs import Data, read_all
from symbert_jax.eval.progress import Progress
from symbert_jax.eval.protocols import Protocol, resolve
from symbert_jax.eval.training import Trained, train
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
      UserError: checkpoints, data, protocol and mesh do not fit each other, or are not the same on every process.
    """
    with agreed() as facts:
        facts |= fields(config)
        protocol, tasks = resolve(config), find(config.tasks)
        for warm in {task.warm for task in tasks if config.from_mnli and task.warm} - {task.name for task in tasks}:
            raise UserError("from_mnli", f"True with tasks={','.join(config.tasks)}", f"{warm} among the tasks")
    trained = sorted((task for task in tasks if not task.model), key=lambda task: task.warm)  # MNLI before RTE
    with agreed() as facts:
        starts = [
            (name, folder, require_step(folder, step))
            for name, folder in ((name, absolute(name)) for name in config.checkpoint)
            for step in config.checkpoint_steps or (None,)
        ]
        mesh = make_mesh(config.mesh)
        for _, folder, _ in starts:
            check_split(from_json((folder / "config.json").read_text()).model, config.mesh, mesh)
        # all checkpoints and all data now: what is missing or damaged must not come out after hours of training
        data = read_all(config, protocol, tasks, [folder for _, folder, _ in starts])
        workdir.mkdir(parents=True, exist_ok=True)
        log = Log(workdir, write=first())
        facts["checkpoint"] = [step for _, _, step in starts]
        facts["glue.source"] = [part.fingerprint() for _, folder, _ in starts for part in data[folder].values()]
        facts["workdir"] = [trial.key for trial in log.results]
    require_shared(workdir)
    each = len(protocol.batch_sizes) * len(protocol.learning_rates) * protocol.seeds
    sizes = [part.train.size for _, folder, _ in starts for part in data[folder].values()]
    progress = Progress(each * len(sizes), each * protocol.epochs * sum(sizes))
    run = Run(config, protocol, tasks, workdir, log, progress)
    scored = []
    with jax.set_mesh(mesh), contextlib.closing(progress):
        connect()
        for name, folder, step in starts:
            pretrained = read(folder, step, protocol)
            found = {task: _task(run, pretrained, task, data[folder]) for task in trained}
            results = {task: found[task] for task in tasks if task in found}
            scored.append(report.Scored(name, step, pretrained.sha256, pretrained.model, results))
    if run.log.write:
        report.write(config, protocol, scored, workdir)
        _submit(workdir, scored[-1].results, data[folder])


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
        missing = [(most, [t for t in group if not _finished(run, t, data, folder)]) for most, group in groups]
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
            run.progress.advance,
        )
        _keep(run, pretrained, folder, data, trained, params)
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


def _finished(run: Run, trial: Trial, data: Data, folder: epath.Path) -> bool:
    """Whether a trial has left all that is wanted of it: its result, its predictions, a model at least as good."""
    if trial not in run.log.results or (data.test and not _predictions(run.workdir, trial, data).exists()):
        return False
    if not _keeps_model(run, trial.task):
        return True
    return saved.is_saved(folder) and saved.describe(folder).score >= run.log.results[trial].score


def _keeps_model(run: Run, task: str) -> bool:
    return run.config.save_models or (run.config.from_mnli and any(other.warm == task for other in run.tasks))


def _keep(
    run: Run, pretrained: Pretrained, folder: epath.Path, data: Data, trained: Sequence[Trained], params: Params
) -> None:
    """Writes what outlives the trials beside their results: predictions, and in `folder` the best model so far."""
    if data.test and run.log.write:
        for result, logits in trained:
            path = _predictions(run.workdir, result.trial, data)
            path.parent.mkdir(exist_ok=True)
            new = path.with_suffix(".new")
            with new.open("wb") as file:
                np.savez(file, **{name: logits[name] for name in data.test})  # type: ignore[arg-type]
            new.replace(path)
    best = max(range(len(trained)), key=lambda i: trained[i].result.score)
    score, trial = trained[best].result.score, trained[best].result.trial
    if _keeps_model(run, trial.task) and not (saved.is_saved(folder) and saved.describe(folder).score >= score):
        model = saved.Saved(score, trial.task, pretrained.model, trial.key)
        weights = jax.tree.map(lambda leaf: leaf[best], params)
        saved.write(folder, model, weights, pretrained.workdir / VOCAB, run.log.write)
    wait_for_all("models and predictions")  # which the next task may start from


def _model(run: Run, pretrained: Pretrained, template: Trial) -> epath.Path:
    """Where the best model of a task is kept; another protocol or other data have another best."""
    return run.workdir / MODELS / pretrained.sha256[:8] / f"{template.task}-{template.key[:8]}"


def _predictions(workdir: epath.Path, trial: Trial, data: Data) -> epath.Path:
    return workdir / PREDICTIONS / f"{trial.task}-{trial.key}-{data.test_fingerprint()[:8]}.npz"


def _submit(workdir: epath.Path, found: dict[Task, list[Result]], datasets: dict[Task, Data]) -> None:
    """The files for the GLUE server, by the best trial of each task on the last of the checkpoints."""
    owners = {split.server: task for task in TASKS.values() for split in task.test}
    folder = workdir / "submission"
    for task, results in found.items():
        if not datasets[task].test:
            continue
        best = max(results, key=lambda result: result.score)
        folder.mkdir(exist_ok=True)
        with _predictions(workdir, best.trial, datasets[task]).open("rb") as file:
            for name, logits in np.load(file).items():
                answers = scores.decide(owners[name], logits)
                write_whole(folder / name, report.submission(owners[name], answers))
