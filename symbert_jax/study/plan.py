"""The runs of a study: each is an ordinary pretraining run with a workdir of its own."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

from etils import epath

from symbert_jax import metrics
from symbert_jax.checkpoint import FOLDER, LOSS
from symbert_jax.config import Config, StudyConfig, parse_arms, read, values_by_name
from symbert_jax.errors import UserError, did_you_mean
from symbert_jax.storage import write_whole
from symbert_jax.train.start import may_change

DIVERGED = "diverged.txt"  # a file in the workdir of a run whose loss was not finite


class Run(NamedTuple):
    """A run of a study."""

    arm: str
    learning_rate: float
    seed: int
    config: Config
    workdir: epath.Path

    @property
    def name(self) -> str:
        return f"{self.arm}, learning rate {self.learning_rate:g}, seed {self.seed}"

    @property
    def has_diverged(self) -> bool:
        return (self.workdir / DIVERGED).exists()

    @property
    def has_started(self) -> bool:
        """Whether the run has a checkpoint from which it continues, or has diverged."""
        folder = self.workdir / FOLDER
        return self.has_diverged or (folder.is_dir() and any(path.name.isdecimal() for path in folder.iterdir()))

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to train: the run has its last checkpoint and validation, or has diverged."""
        if self.has_diverged:
            return True
        steps = self.config.train.steps
        if not (self.workdir / FOLDER / str(steps)).exists():
            return False
        return any(line["step"] == steps and LOSS in line for line in metrics.read(self.workdir, warn=False))

    def mark_diverged(self, reason: str) -> None:
        """Records that the loss was not finite, so that the run is not trained again."""
        write_whole(self.workdir / DIVERGED, f"{reason}\n")


def plan(study: StudyConfig, workdir: epath.Path, only: Sequence[str] = ()) -> list[Run]:
    """Returns the runs of a study, all arms of a seed and a learning rate before the next.

    only: the names of some arms; empty: all.

    Raises:
      UserError: there is no such arm.
    """
    arms = parse_arms(study)
    for name in only:
        if name not in arms:
            raise UserError("arms", repr(name), "an arm of the study", did_you_mean(name, arms))
    learning_rates = dict.fromkeys(study.learning_rates or (study.base.optim.learning_rate,))
    runs = []
    for seed, learning_rate, arm in itertools.product(range(study.seeds), learning_rates, dict.fromkeys(only or arms)):
        optim = dataclasses.replace(arms[arm].optim, learning_rate=learning_rate)
        config = dataclasses.replace(arms[arm], optim=optim, seed=seed)
        folder = workdir / "runs" / arm / f"lr_{learning_rate!r}" / f"seed_{seed}"
        runs.append(Run(arm, learning_rate, seed, config, folder))
    return runs


def check_unchanged(run: Run) -> None:
    """Raises `UserError` if a run has started with another config than that of the study."""
    if not run.has_started:
        return
    found, wanted = values_by_name(read(run.workdir)), values_by_name(run.config)
    for field, value in wanted.items():
        if found[field] != value and not may_change(field):
            raise UserError(field, f"{found[field]} in {run.workdir}", str(value), "use a new workdir for the study")
