"""`average`: makes a workdir with the mean of the parameters of several checkpoints of a run."""

import contextlib
import dataclasses

import jax
import numpy as np
from etils import epath

from symbert_jax.checkpoint import Checkpoints, check_path
from symbert_jax.config import Config, MeshConfig, split_list
from symbert_jax.data import tokenizer
from symbert_jax.errors import UserError
from symbert_jax.model import bert
from symbert_jax.sharding import make_mesh
from symbert_jax.storage import check_new, new_folder
from symbert_jax.train.start import write_first_checkpoint


def average(source: epath.Path, workdir: epath.Path, steps: str | None, last: int | None) -> None:
    """Writes a workdir with the mean parameters and a new optimizer state as checkpoint 0.

    Each checkpoint counts with its parameters, not with their moving average.

    source: the workdir of a run.
    steps: the steps of the checkpoints, separated by commas; None: the latest `last` steps.

    Raises:
      UserError: a checkpoint is missing or damaged, or has other parameters; or `workdir` is not empty.
    """
    check_new(workdir, "workdir")
    check_path(workdir, "workdir")
    with contextlib.closing(Checkpoints(source)) as checkpoints:
        chosen = _choose_steps(checkpoints, steps, last)
        params, config = _mean(checkpoints, chosen)
    optim = dataclasses.replace(config.optim, ema=0.0)  # the mean has no moving average
    config = dataclasses.replace(config, optim=optim, mesh=MeshConfig(), init_from="", branch_from="")
    with new_folder(workdir, "workdir") as new, jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        tokenizer.write(tokenizer.read(source), new)
        write_first_checkpoint(new, config, params)
    print(f"{workdir}: the mean of steps {', '.join(map(str, chosen))} of {source}, as checkpoint 0")


def _choose_steps(checkpoints: Checkpoints, steps: str | None, last: int | None) -> list[int]:
    """Returns the steps that the flags name; raises `UserError` if there are not at least two, or one is missing."""
    if (steps is None) == (last is None):
        found = "neither --steps nor --last" if steps is None else "both --steps and --last"
        raise UserError("command line", found, "one of --steps=N,N,… and --last=K")
    if last is not None:
        chosen = checkpoints.latest_steps(last)
        if len(chosen) < last:
            raise UserError("last", str(last), f"at most {len(chosen)}, the checkpoints in {checkpoints.folder}")
    else:
        parts = split_list(steps or "")
        chosen = [int(part) for part in parts if part.isdecimal() and len(part) <= 10]
        if len(set(chosen)) < max(2, len(parts)):
            raise UserError("steps", repr(steps), "two or more different steps, separated by commas")
    return [checkpoints.check_step(step) for step in chosen]


def _mean(checkpoints: Checkpoints, steps: list[int]) -> tuple[bert.Params, Config]:
    """Returns the mean parameters of the steps, as numpy arrays, and the config of the last of them.

    Only the sum and one checkpoint are in memory at a time.
    """
    total, config = checkpoints.read(steps[0], "raw")
    total = jax.tree.map(np.array, total)  # a copy that can be written to
    for step in steps[1:]:
        checkpoints.check_shapes(step, params=total)
        params, config = checkpoints.read(step, "raw")
        jax.tree.map(lambda into, leaf: np.add(into, leaf, out=into), total, params)
        del params
    return jax.tree.map(lambda leaf: np.divide(leaf, len(steps), out=leaf), total), config
