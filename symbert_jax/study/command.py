"""The `study` command: prepares the corpus, trains the missing runs, and writes the report.

Killed at any moment and started again, it trains what is missing. Every run depends on its own config alone, so the
numbers do not depend on the order of the runs, and several processes may train different arms at once.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import jax
from etils import epath

from symbert_jax.checkpoint import Checkpoints
from symbert_jax.config import StudyConfig, corpus_configs, phases
from symbert_jax.data.corpus import Corpora
from symbert_jax.data.manifest import is_finished as is_prepared
from symbert_jax.data.masking import max_train_predictions
from symbert_jax.data.prepare.command import prepare
from symbert_jax.errors import UserError
from symbert_jax.model import bert
from symbert_jax.sharding import make_mesh
from symbert_jax.storage import absolute, is_bucket
from symbert_jax.study.parallel import train_side_by_side
from symbert_jax.study.plan import Run, check_unchanged, plan
from symbert_jax.study.report import write_report
from symbert_jax.train.loop import pretrain
from symbert_jax.train.memory import max_parallel_runs
from symbert_jax.train.phase_changes import corpus_changes
from symbert_jax.train.window import Diverged


def study(config: StudyConfig, workdir: epath.Path, only: Sequence[str] = (), report: bool = False) -> None:
    """Trains the runs of a study that are not finished, and writes the report of all that are.

    A signal ends the current runs with a checkpoint, and the study with a report.

    only: the names of the arms to train; empty: all. report: whether to train none.

    Raises:
      UserError: the corpus cannot be prepared, or a run cannot be trained, was trained with another config, or is
        trained by another process.
    """
    runs, all_runs = plan(config, workdir, only), plan(config, workdir)
    for run in all_runs:
        check_unchanged(run)
    if not report:
        _train(config, runs)
    if report or any(run.is_finished and not run.has_diverged for run in all_runs):
        write_report(config, all_runs, workdir)
    elif all(run.has_diverged for run in all_runs):
        print("every run has diverged: a study with lower learning_rates needs a new workdir")
    else:
        print("no run is finished yet: the same command continues")


def _train(config: StudyConfig, runs: Sequence[Run]) -> None:
    """Trains the unfinished runs, until a signal stops one."""
    for each in corpus_configs(config.base):
        data = each.data
        if data.sources and not is_bucket(data.dir) and not is_prepared(Path(absolute(data.dir, "data.dir"))):
            prepare(each)
    corpora = Corpora()
    for run in runs:
        if run.is_finished and not run.has_diverged:
            _check_corpora(run, corpora)
    for group in _groups(config, [run for run in runs if not run.is_finished]):
        for run in group:
            print(f"run {runs.index(run) + 1} of {len(runs)}: {run.name}", flush=True)
        if len(group) == 1:
            _train_alone(group[0])
        else:
            train_side_by_side(group)
        jax.clear_caches()  # programs of finished runs would fill the memory of a long study
        if not all(run.is_finished for run in group):
            break  # a signal has stopped the group


def _check_corpora(run: Run, corpora: Corpora) -> None:
    """Raises `UserError` if a finished run has read another corpus than the others will read."""
    last = run.config.train.steps
    with contextlib.closing(Checkpoints(run.workdir)) as checkpoints:
        recorded = checkpoints.corpora_of(last)
    for problem in corpus_changes(run.config, corpora, run.workdir, last, recorded, in_branch=False):
        raise UserError(problem.what, problem.found, problem.wanted, "use a new workdir for the study")


def _train_alone(run: Run) -> None:
    try:
        pretrain(run.config, run.workdir)
    except Diverged as error:
        print(f"{run.name}: {error}", flush=True)
        run.mark_diverged(str(error))


def _groups(config: StudyConfig, runs: Sequence[Run]) -> list[list[Run]]:
    """Returns the runs in groups that train side by side, each of one arm; in their order if each trains alone."""
    by_arm: dict[str, list[Run]] = {}
    for run in runs:
        by_arm.setdefault(run.arm, []).append(run)
    limits = {arm: _limit(config, of_arm[0]) for arm, of_arm in by_arm.items()}  # the models of arms differ in size
    if set(limits.values()) <= {1}:
        return [[run] for run in runs]
    return [of_arm[i : i + limits[arm]] for arm, of_arm in by_arm.items() for i in range(0, len(of_arm), limits[arm])]


def _limit(config: StudyConfig, run: Run) -> int:
    """Returns the number of runs like `run` that train side by side; 1 for runs of several phases."""
    if len(phases(run.config)) > 1:
        return 1
    if config.parallel:
        return config.parallel
    model, data = run.config.model, run.config.data
    rows, predictions = data.batch_size // run.config.optim.accumulate, max_train_predictions(run.config)
    with jax.set_mesh(make_mesh(run.config.mesh)):
        has_ema = run.config.optim.ema > 0
        return max_parallel_runs(model, bert.size(model), rows, model.length, predictions, has_ema)
