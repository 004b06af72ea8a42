"""The only door to Orbax. Checkpoint s holds the state after s updates, as items `params` and `optimizer`.

Knows trees and steps, not models. A workdir keeps its checkpoints in `checkpoints/<step>/`; each carries
the config that made it, so that `load` needs nothing else.
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from symbert_jax.config import Config, Train, from_dict
from symbert_jax.errors import UserError
from symbert_jax.storage import absolute, bucket_errors_as_user_errors

LOSS = "validation/loss"
WINDOW = "window/"  # before the names of the sums since the last log point
FOLDER = "checkpoints"  # of a workdir


class Checkpoints:
    """The checkpoints of one workdir; writes in the background."""

    def __init__(self, workdir: epath.Path, train: Train | None = None):
        """`train` says which checkpoints stay; a reader gives none, and changes nothing.

        Raises:
          UserError: a reader finds no checkpoints in `workdir`.
        """
        self.folder = workdir / FOLDER
        self.losses: dict[int, float] = {}  # of validations that came after the checkpoint of their step
        writes = train is not None
        with bucket_errors_as_user_errors("checkpoint", workdir, "a bucket that can be read"):
            there = writes or self.folder.exists()
        if not there:
            raise UserError("checkpoint", f"no {self.folder}", "the workdir of a pretrain run")
        self.manager = _Manager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=_preservation(train, self.losses) if train else None,
                best_fn=_loss,  # the policy decides, but without this Orbax would not store the losses
                best_mode="min",
                create=writes,
                cleanup_tmp_directories=writes,
                save_root_metadata=writes,  # waits for all processes, and a reader may be alone in finding a folder
            ),
            item_handlers={item: ocp.StandardCheckpointHandler() for item in ("params", "optimizer")},
        )

    def latest(self) -> int | None:
        return self.manager.latest_step()

    def save(
        self,
        step: int,
        params: Any,
        optimizer: Any,
        config: Config,
        validation_loss: float | None,
        window: Mapping[str, float] | None = None,
    ) -> None:
        """Copies the arrays off the devices and writes on while training does; every process takes part.

        validation_loss: of these parameters in nats, None where it was not measured.
        window: the sums since the last log point, for `window` to give back.
        """
        sums = {WINDOW + name: value for name, value in (window or {}).items()}
        self.manager.save(
            step,
            args=ocp.args.Composite(params=ocp.args.StandardSave(params), optimizer=ocp.args.StandardSave(optimizer)),
            metrics={LOSS: math.inf if validation_loss is None else validation_loss} | sums,
            custom_metadata=dataclasses.asdict(config),
            force=True,
        )

    def restore(self, step: int, **targets: Any) -> dict[str, Any]:
        """The named items (`params=`, `optimizer=`) of a step, each with the shapes and shardings of its target.

        Raises:
          UserError: there is no such checkpoint, or it holds other arrays than the targets.
        """
        self.compare(step, **targets)
        args = {item: ocp.args.StandardRestore(target) for item, target in targets.items()}
        return dict(self.manager.restore(step, args=ocp.args.Composite(**args)))

    def compare(self, step: int, **targets: Any) -> None:
        """Raises `UserError` where `restore` would, without reading an array; targets need no shardings."""
        self.require(step)
        saved = self.manager.item_metadata(step)
        for item, target in targets.items():
            _compare(f"{self.folder}/{step}/{item}", saved[item], target)

    def config(self, step: int) -> Config:
        """The config of the run that made a step."""
        return from_dict(self.manager.metadata(step).custom_metadata)

    def window(self, step: int) -> dict[str, float]:
        """The sums that were saved with a step; none by older versions."""
        found = self.manager.metrics(step) or {}
        return {name.removeprefix(WINDOW): value for name, value in found.items() if name.startswith(WINDOW)}

    def read(self, step: int | None) -> tuple[Any, Config]:
        """The parameters of a step, by default the latest, as numpy arrays, and the config that made them.

        Raises:
          UserError: there is no such checkpoint.
        """
        step = self.require(step)
        shapes = self.manager.item_metadata(step)["params"]
        target = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), shapes)
        restored = self.manager.restore(step, args=ocp.args.Composite(params=ocp.args.StandardRestore(target)))
        return restored["params"], self.config(step)

    def close(self) -> None:
        """Waits until what was saved is on disk."""
        self.manager.close()

    def require(self, step: int | None) -> int:
        """`step`, or the latest for None, if there is such a checkpoint; else raises `UserError`."""
        step = self.latest() if step is None else step
        if step is None:
            raise UserError("checkpoint", f"none in {self.folder}", "a finished one")
        if step not in (steps := self.manager.all_steps()):
            raise UserError("checkpoint", f"no step {step} in {self.folder}", f"one of {sorted(steps)}")
        return step


class _Manager(ocp.CheckpointManager):
    """Leaves preemption to the loop: JAX counts the steps at which it is asked, and Orbax would ask in between."""

    def reached_preemption(self, step: int) -> bool:
        return False


def require_step(workdir: epath.Path, step: int | None) -> int:
    """The step of a checkpoint that is there, by default the latest.

    Raises:
      UserError: there is no such checkpoint.
    """
    checkpoints = Checkpoints(workdir)
    try:
        return checkpoints.require(step)
    finally:
        checkpoints.close()


def load(workdir: epath.PathLike, step: int | None = None) -> tuple[Any, Config]:
    """`params, config = symbert_jax.load(WORKDIR)`: a nested dict of numpy arrays, and the config.

    step: which checkpoint; by default the latest.

    Raises:
      UserError: there is no such checkpoint.
    """
    checkpoints = Checkpoints(absolute(workdir))
    try:
        return checkpoints.read(step)
    finally:
        checkpoints.close()


def write_params(folder: epath.Path, params: Any) -> None:
    """Parameters alone, whole or not at all; every process takes part."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder, params, force=True)


def read_params(folder: epath.Path) -> Any:
    """What `write_params` wrote, as numpy arrays."""
    with ocp.StandardCheckpointer() as checkpointer:
        shapes = checkpointer.metadata(folder).item_metadata
        return checkpointer.restore(folder, jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), dict(shapes)))


def digest(params: Any) -> str:
    """SHA-256 of the names and values of all arrays."""
    found = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(params):
        found.update(_name(path).encode())
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()


def _loss(metrics: dict[str, float]) -> float:
    return metrics[LOSS]


class _Best(policies.PreservationPolicy):
    """Keeps the step with the lowest validation loss; Orbax's own knows no loss that came after its checkpoint."""

    def __init__(self, losses: dict[int, float]):
        self.losses = losses

    def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
        del context
        stored = [math.inf if info.metrics is None else _loss(info.metrics) for info in checkpoints]
        pairs = zip(checkpoints, stored, strict=True)
        losses = [self.losses.get(c.step, loss) if loss == math.inf else loss for c, loss in pairs]
        best = min(reversed(range(len(losses))), key=losses.__getitem__, default=None)  # of equal ones the latest
        return [i == best or info.metrics is None for i, info in enumerate(checkpoints)]


def _preservation(train: Train, losses: dict[int, float]) -> policies.AnyPreservationPolicy:
    """The latest N, the best by validation loss, and every K-th for ever."""
    kept: list[Any] = [policies.LatestN(train.keep_latest), _Best(losses)]
    if train.keep_every:
        kept.append(policies.EveryNSteps(train.keep_every))
    return policies.AnyPreservationPolicy(kept)


def _compare(where: str, saved: Any, target: Any) -> None:
    """Raises `UserError` with the first array in which the two trees differ, before Orbax says it its way."""
    found, wanted = (
        {_name(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(tree)} for tree in (saved, target)
    )
    hint = "set model.* and optim.name as in the config.json of that workdir, or take another"
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            describe = functools.partial(_describe, name=name)
            raise UserError(where, describe(found.get(name)), describe(wanted.get(name)), hint)


def _describe(shape: tuple[int, ...] | None, name: str) -> str:
    return f"no {name}" if shape is None else f"{name} of shape {list(shape)}"


def _name(path: tuple[Any, ...]) -> str:
    """Orbax lists namedtuples and tuples as mappings: a path names its keys only, whatever holds them."""
    return ".".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", None)))) for key in path)
