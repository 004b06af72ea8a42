"""The curves of a run: its metrics by step, with its config."""

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

import numpy as np
from etils import epath

from symbert_jax import config as configs
from symbert_jax import metrics
from symbert_jax.checkpoint import LOSS
from symbert_jax.config import Config, tokens_until
from symbert_jax.errors import UserError, printable
from symbert_jax.storage import bucket_errors_as_user_errors
from symbert_jax.train.events import EMA_LOSS

SPEED = "speed/tokens_per_second"


class RunCurve(NamedTuple):
    """The config of a run, and its metrics, among them at least one validation loss."""

    name: str
    config: Config
    metrics: dict[str, dict[int, float]]  # the values by step, by the name of the metric

    @property
    def losses(self) -> dict[int, float]:
        """Validation losses in nats, by step."""
        return self.metrics[LOSS]

    @property
    def average_losses(self) -> dict[int, float]:
        """Validation losses of the moving average of the parameters; empty if the run keeps none."""
        return self.metrics.get(EMA_LOSS, {})

    @property
    def final_loss(self) -> float:
        return self.losses[max(self.losses)]

    @property
    def tokens_per_second(self) -> float | None:
        """The median over the log points; None if none has a speed."""
        return median(self.metrics[SPEED].values()) if SPEED in self.metrics else None

    def tokens_until(self, step: int) -> float:
        """Returns the tokens that the run has read when it has reached a step, without padding.

        They are interpolated between log points. Padding counts after the last one, and in a run that did not log them.
        """
        logged = {0: 0.0} | self.metrics.get(metrics.TOKENS, {})
        if step in logged:
            return logged[step]
        steps = sorted(logged)
        until_log = np.interp(float(step), [*map(float, steps)], [logged[each] for each in steps])
        last = steps[-1]
        return float(until_log) + tokens_until(self.config, max(step, last)) - tokens_until(self.config, last)

    def first_step_at(self, loss: float) -> int | None:
        """Returns the first step with a validation loss of at most `loss`, None if there is none."""
        return next((step for step, step_loss in sorted(self.losses.items()) if step_loss <= loss), None)


def read_run(workdir: epath.Path, name: str) -> RunCurve:
    """Reads a run from its workdir.

    Raises:
      UserError: there is no run, it has no validation loss, or its files are damaged.
    """
    values: dict[str, dict[int, float]] = {}
    with bucket_errors_as_user_errors("WORKDIR", workdir, "a bucket that can be read"):
        for line in metrics.read(workdir):
            for metric in line.keys() - {"step"}:
                values.setdefault(metric, {})[line["step"]] = float(line[metric])
        if LOSS not in values:
            raise UserError(str(workdir), "no validation loss", "the workdir of a pretrain run that has validated")
        config = configs.read(workdir)
    for problem in configs.problems(config):
        raise UserError(
            f"{workdir / 'config.json'}", f"an invalid config ({problem})", "the config that `pretrain` wrote"
        )
    return RunCurve(name, config, values)


def unique_names(workdirs: Sequence[epath.Path]) -> list[str]:
    """Returns a unique name of each path: the fewest of its last parts with which no other path ends.

    It is the whole path if another path ends with that too. Unprintable characters are escaped.
    """
    paths = [f"{workdir}".split("/") for workdir in workdirs]
    names = []
    for i, path in enumerate(paths):
        others = paths[:i] + paths[i + 1 :]
        endings = (path[-count:] for count in range(1, len(path) + 1))
        ending = next(end for end in endings if end == path or all(other[-len(end) :] != end for other in others))
        names.append(printable("/".join(ending)))
    return names
