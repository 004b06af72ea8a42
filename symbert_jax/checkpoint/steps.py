"""The checkpoints of a run, by step: saved in the background, restored, kept and found again."""

import contextlib
import dataclasses
import functools
import logging
import math
import os
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from symbert_jax.checkpoint.index import (
    ITEMS,
    METADATA,
    check_path,
    damaged_steps,
    find_damage,
    one_line,
    read_index,
    write_index,
)
from symbert_jax.checkpoint.params import name_of
from symbert_jax.config import Config, Train, from_dict
from symbert_jax.errors import UserError
from symbert_jax.storage import absolute, bucket_errors_as_user_errors, is_bucket

LOSS = "validation/loss"
WINDOW = "window/"  # before the names of the sums since the last log point
FOLDER = "checkpoints"  # of a workdir
_DELETED = "deleted"  # of FOLDER

# Orbax logs what it raises, with a traceback.
logging.getLogger("absl").addFilter(
    lambda record: record.levelno < logging.ERROR or f"{os.sep}orbax{os.sep}" not in record.pathname
)


def _without_closed_loops(hook: Callable[..., object]) -> Callable[..., object]:
    """TensorStore finishes writes that failed after Orbax has closed their loop, and prints a traceback for each."""

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if str(error) != "Event loop is closed":
            hook(kind, error, trace)

    return report


sys.excepthook = _without_closed_loops(sys.excepthook)


class Checkpoints:
    """The checkpoints of one workdir; writes in the background."""

    def __init__(self, workdir: epath.Path, train: Train | None = None, corpus: str = ""):
        """`train` says which checkpoints stay; a reader gives none, and changes nothing.

        corpus: the fingerprint of what a writer trains on; empty is none.

        Raises:
          UserError: a reader finds no checkpoints in `workdir`, or the path cannot be used.
        """
        self.folder, self.corpus = workdir / FOLDER, corpus
        self._saving: int | None = None  # the step that was saved last
        self.losses: dict[int, float] = {}  # of validations that came after the checkpoint of their step
        writes = train is not None
        check_path(workdir, "workdir" if writes else "checkpoint")
        with bucket_errors_as_user_errors("checkpoint", workdir, "a bucket that can be read"):
            if not (writes or self.folder.exists()):
                raise UserError("checkpoint", f"no {self.folder}", "the workdir of a pretrain run")
            try:
                if writes and jax.process_index() == 0:
                    self._empty_deleted()  # what a kill left
                self.damaged = damaged_steps(self.folder)  # and what is wrong with each
                self.manager = _Manager(
                    self.folder,
                    options=ocp.CheckpointManagerOptions(
                        preservation_policy=_preservation(train, self.losses) if train else None,
                        best_fn=_loss,  # the policy decides, but without this Orbax would not store the losses
                        best_mode="min",
                        create=writes,
                        cleanup_tmp_directories=writes,
                        # waits for all processes, and a reader may be alone in finding a folder
                        save_root_metadata=writes,
                        step_name_format=_WholeSteps(self.damaged),
                        todelete_subdir=_DELETED,
                        async_options=ocp.AsyncOptions(post_finalization_callback=self._before_commit),
                    ),
                    item_handlers={item: ocp.StandardCheckpointHandler() for item in ITEMS},
                )
            except OSError as error:
                if is_bucket(self.folder):
                    raise
                wanted = "a folder that can be written" if writes else "a folder that can be read"
                raise UserError("checkpoint", f"{self.folder}: {error.strerror or error}", wanted) from None
        self.manager.after_deletion = self._empty_deleted

    def latest(self) -> int | None:
        """The latest step, None where there is none.

        Raises:
          UserError: it is damaged.
        """
        step = max({*self.manager.all_steps(), *self.damaged}, default=None)
        if step in self.damaged:
            raise self._damage_error(step, self.damaged[step])
        return step

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

        Raises:
          UserError: this checkpoint or the one before it cannot be written.
        """
        sums = {WINDOW + name: value for name, value in (window or {}).items()}
        with self._written():
            self.manager.wait_until_finished()
            self._confirm()
            self._saving = step
            self.manager.save(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(params), optimizer=ocp.args.StandardSave(optimizer)
                ),
                metrics={LOSS: math.inf if validation_loss is None else validation_loss} | sums,
                custom_metadata=dataclasses.asdict(config),
                force=True,
            )

    def restore(self, step: int, **targets: Any) -> dict[str, Any]:
        """The named items (`params=`, `optimizer=`) of a step, each with the shapes and shardings of its target.

        Raises:
          UserError: there is no such checkpoint, it is damaged, or it holds other arrays than the targets.
        """
        self.verify(step, targets)
        self.compare(step, **targets)
        args = {item: ocp.args.StandardRestore(target) for item, target in targets.items()}
        with self._read(step):
            return dict(self.manager.restore(step, args=ocp.args.Composite(**args)))

    def compare(self, step: int, **targets: Any) -> None:
        """Raises `UserError` where a step holds other arrays than the targets, which need no shardings."""
        self.require(step)
        with self._read(step):
            saved = self.manager.item_metadata(step)
            shapes = {item: _shapes(saved[item]) for item in targets}
        for item, target in targets.items():
            _compare(f"{self.folder}/{step}/{item}", shapes[item], _shapes(target))

    def verify(self, step: int, items: Collection[str] = ITEMS) -> None:
        """Reads every file of the named items and compares it with the index. The main process does it for all.

        Raises:
          UserError: there is no such checkpoint, or it is damaged.
        """
        self.require(step)
        if jax.process_index() == 0 and (damage := find_damage(self.folder / str(step), contents=items)):
            raise self._damage_error(step, damage)

    def config(self, step: int) -> Config:
        """The config of the run that made a step.

        Raises:
          UserError: there is no such checkpoint, or it is damaged.
        """
        self.require(step)
        with self._read(step):
            made_by = self.manager.metadata(step).custom_metadata
        try:
            if not made_by:
                raise UserError("config", "none", "that of its run")
            return from_dict(made_by)
        except UserError as error:
            raise self._damage_error(step, f"{METADATA}: {error}") from None

    def corpus_of(self, step: int) -> str:
        """The fingerprint of the corpus that a step was trained on; empty where it is not known."""
        self.require(step)
        with self._read(step):
            return str((read_index(self.folder / str(step)) or {}).get("corpus", ""))

    def window(self, step: int) -> dict[str, float]:
        """The sums that were saved with a step; none by older versions, or without a checkpoint of it."""
        if step not in self.manager.all_steps():
            return {}
        with self._read(step):
            found = self.manager.metrics(step) or {}
        return {name.removeprefix(WINDOW): value for name, value in found.items() if name.startswith(WINDOW)}

    def read(self, step: int | None) -> tuple[Any, Config]:
        """The parameters of a step, by default the latest, as numpy arrays, and the config that made them.

        Raises:
          UserError: there is no such checkpoint, or it is damaged.
        """
        step = self.require(step)
        self.verify(step, ("params",))
        config = self.config(step)
        with self._read(step):
            shapes = self.manager.item_metadata(step)["params"]
            target = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), shapes)
            restored = self.manager.restore(step, args=ocp.args.Composite(params=ocp.args.StandardRestore(target)))
        return restored["params"], config

    def close(self) -> None:
        """Waits until what was saved is on disk.

        Raises:
          UserError: it cannot be written.
        """
        with self._written():
            self.manager.close()
            self._confirm()

    def require(self, step: int | None) -> int:
        """`step`, or the latest for None, if there is such a checkpoint and it is not damaged; else raises `UserError`.

        Looks at the names and sizes of its files and at the small ones, not at every array as `verify` does.
        """
        step = self.latest() if step is None else step
        if step is None:
            raise UserError("checkpoint", f"none in {self.folder}", "a finished one")
        if step in self.damaged:
            raise self._damage_error(step, self.damaged[step])
        if step not in (steps := self.manager.all_steps()):
            raise UserError("checkpoint", f"no step {step} in {self.folder}", f"one of {sorted(steps)}")
        return step

    def _damage_error(self, step: int, damage: str) -> UserError:
        """Names a damaged step and the latest whole one."""
        folder = self.folder / str(step)
        others = sorted(set(self.manager.all_steps()) - {step}, reverse=True)
        whole = next((other for other in others if not find_damage(self.folder / str(other), contents=ITEMS)), None)
        hint = "no other step is whole: begin in a new workdir"
        if whole is not None:
            hint = (
                f"the latest whole step is {whole}: take it with --step={whole} (finetune: --config.checkpoint_steps="
                f"{whole}), or move {folder} away and run the same command again"
            )
        return UserError("checkpoint", f"{folder} damaged: {damage}", "a whole checkpoint", hint)

    @contextlib.contextmanager
    def _read(self, step: int) -> Iterator[None]:
        """Whatever Orbax raises on reading a step says that it is damaged."""
        with bucket_errors_as_user_errors("checkpoint", self.folder, "a bucket that can be read"):
            try:
                yield
            except Exception as error:
                if is_bucket(self.folder):
                    raise
                raise self._damage_error(step, one_line(error)) from error

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        """What Orbax raises on writing a step, also in the background, becomes a `UserError`."""
        with bucket_errors_as_user_errors("checkpoint", self.folder, "a bucket that can be written"):
            try:
                yield
            except Exception as error:
                step, self._saving = self._saving, None
                if is_bucket(self.folder):
                    raise
                found = f"step {step} not saved in {self.folder}: {one_line(error)}"
                hint = "earlier checkpoints stand, and the same command goes on from the latest of them"
                raise UserError("checkpoint", found, "a disk with room that can be written", hint) from error

    def _confirm(self) -> None:
        """Looks at the step that Orbax has finished; raises ValueError where it is not whole."""
        saved, main = self._saving, jax.process_index() == 0
        if saved is not None and main and (damage := find_damage(self.folder / str(saved))):
            raise ValueError(damage)
        self._saving = None

    def _before_commit(self) -> None:
        """Indexes the files of a step before it gets its name; called in the background, on the main process."""
        name = str(self._saving)
        folder = self.folder / (name if is_bucket(self.folder) else name + ocp.utils.TMP_DIR_SUFFIX)
        write_index(folder, ITEMS, self.corpus)

    def _empty_deleted(self) -> None:
        if not is_bucket(self.folder):
            shutil.rmtree(self.folder / _DELETED, ignore_errors=True)


class _Manager(ocp.CheckpointManager):
    """Leaves preemption to the loop: JAX counts the steps at which it is asked, and Orbax would ask in between."""

    after_deletion: Any = None

    def reached_preemption(self, step: int) -> bool:
        return False

    def _finalize(self, step: int, steps_to_remove: list[int]) -> None:
        """In the background: Orbax commits a step and renames the ones that are no longer kept; their files go last."""
        super()._finalize(step, steps_to_remove)
        if steps_to_remove and jax.process_index() == 0:
            self.after_deletion()


class _WholeSteps:
    """How Orbax finds steps, without the damaged ones: it neither offers nor reads nor deletes them."""

    def __init__(self, damaged: Collection[int]):
        self._all, self._damaged = ocp.path.step.standard_name_format(), damaged

    def build_name(self, step: int) -> str:
        return self._all.build_name(step)

    def find_step(self, base_path: epath.PathLike, step: int) -> Any:
        return self._all.find_step(base_path, step)

    def find_all(self, base_path: epath.PathLike) -> Iterator[Any]:
        return (found for found in self._all.find_all(base_path) if found.step not in self._damaged)


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


def _compare(where: str, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises `UserError` with the first array in which two trees differ, before Orbax says it its way."""
    hint = "set model.* and optim.name as in the config.json of that workdir, or take another"
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            describe = functools.partial(_describe, name=name)
            raise UserError(where, describe(found.get(name)), describe(wanted.get(name)), hint)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {name_of(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(tree)}


def _describe(shape: tuple[int, ...] | None, name: str) -> str:
    return f"no {name}" if shape is None else f"{name} of shape {list(shape)}"
