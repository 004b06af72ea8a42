"""The only door to Orbax. Checkpoint s holds the state after s updates, as items `params` and `optimizer`.

Knows trees and steps, not models. A workdir keeps its checkpoints in `checkpoints/<step>/`; each carries
the config that made it, so that `load` needs nothing else.

Orbax stores no checksum of array values, and takes any folder with a number for a checkpoint. So every checkpoint gets
an index of its files (name, bytes, SHA-256) before Orbax commits it with a rename, and is checked against it before it
counts. In a bucket the index holds sizes alone: Cloud Storage keeps a checksum of each object itself. A checkpoint
without an index, from before there was one, is whole as far as its metadata can be read.

A checkpoint that is no longer kept is renamed to `checkpoints/deleted/` before its files go, so that a kill leaves no
half of one. In a bucket, which cannot rename, a kill may leave half; the index shows it.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from symbert_jax.config import Config, Train, from_dict
from symbert_jax.errors import UserError
from symbert_jax.storage import absolute, bucket_errors_as_user_errors, file_sizes, is_bucket, sha256, write_whole

LOSS = "validation/loss"
WINDOW = "window/"  # before the names of the sums since the last log point
FOLDER = "checkpoints"  # of a workdir
ITEMS = ("params", "optimizer")

INDEX = "index.json"
_METADATA = "_CHECKPOINT_METADATA"
_COMMIT = (INDEX, _METADATA, "commit_success.txt")  # are written after the files are indexed
_DELETED = "deleted"  # of FOLDER
_SMALL = 1 << 20  # bytes of a file whose content is checked whenever a checkpoint is looked at

# Orbax logs what it raises, with a traceback.
logging.getLogger("absl").addFilter(
    lambda record: record.levelno < logging.ERROR or f"{os.sep}orbax{os.sep}" not in record.pathname
)


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
                self.damaged = _damaged_steps(self.folder)  # and what is wrong with each
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
        if jax.process_index() == 0 and (damage := _damage(self.folder / str(step), contents=items)):
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
            raise self._damage_error(step, f"{_METADATA}: {error}") from None

    def corpus_of(self, step: int) -> str:
        """The fingerprint of the corpus that a step was trained on; empty where it is not known."""
        self.require(step)
        with self._read(step):
            return str((_read_index(self.folder / str(step)) or {}).get("corpus", ""))

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
        whole = next((other for other in others if not _damage(self.folder / str(other), contents=ITEMS)), None)
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
                raise self._damage_error(step, _one_line(error)) from error

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
                found = f"step {step} not saved in {self.folder}: {_one_line(error)}"
                hint = "earlier checkpoints stand, and the same command goes on from the latest of them"
                raise UserError("checkpoint", found, "a disk with room that can be written", hint) from error

    def _confirm(self) -> None:
        """Looks at the step that Orbax has finished; raises ValueError where it is not whole."""
        saved, main = self._saving, jax.process_index() == 0
        if saved is not None and main and (damage := _damage(self.folder / str(saved))):
            raise ValueError(damage)
        self._saving = None

    def _before_commit(self) -> None:
        """Indexes the files of a step before it gets its name; called in the background, on the main process."""
        name = str(self._saving)
        folder = self.folder / (name if is_bucket(self.folder) else name + ocp.utils.TMP_DIR_SUFFIX)
        _write_index(folder, ITEMS, self.corpus)

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


def check_path(path: epath.Path, field: str) -> None:
    """Checks that Orbax reads back what it writes to a path.

    Raises:
      UserError: it does not. Orbax takes `*`, `?` and `[` for patterns, TensorStore takes `\\` for `/`, and both want
        text; a local `gs:/` looks like a bucket to them.
    """
    text = os.fspath(path)
    wrong = next((character for character in "*?[\\" if character in text), "")
    if not is_bucket(text) and "gs:/" in f"{text}/":
        wrong = "gs:"
    if text.encode(errors="replace").decode() != text:
        wrong = "bytes that are no text"
    if wrong:
        hint = "rename the folder or name another"
        raise UserError(field, f"{text}, with {wrong} in it", "a path that checkpoints can be read back from", hint)


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
    """Parameters alone, whole or not at all; every process takes part.

    Raises:
      UserError: they cannot be written.
    """
    check_path(folder, "workdir")
    new = folder if is_bucket(folder) else folder.with_name(folder.name + ocp.utils.TMP_DIR_SUFFIX)
    options = ocp.AsyncOptions(post_finalization_callback=lambda: _write_index(new, ("",)))
    with bucket_errors_as_user_errors("checkpoint", folder, "a bucket that can be written"):
        try:
            with ocp.StandardCheckpointer(async_options=options) as checkpointer:
                checkpointer.save(folder, params, force=True)
        except Exception as error:
            if is_bucket(folder):
                raise
            found = f"{folder} not saved: {_one_line(error)}"
            raise UserError("checkpoint", found, "a disk with room that can be written") from error


def read_params(folder: epath.Path) -> Any:
    """What `write_params` wrote, as numpy arrays.

    Raises:
      UserError: it is damaged.
    """
    check_path(folder, "checkpoint")
    with bucket_errors_as_user_errors("checkpoint", folder, "a bucket that can be read"):
        damage = _damage(folder, ("",), contents=("",)) if jax.process_index() == 0 else ""
        if not damage:
            try:
                with ocp.StandardCheckpointer() as checkpointer:
                    shapes = dict(checkpointer.metadata(folder).item_metadata)
                    target = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), shapes)
                    return checkpointer.restore(folder, target)
            except Exception as error:
                if is_bucket(folder):
                    raise
                damage = _one_line(error)
        raise UserError("checkpoint", f"{folder} damaged: {damage}", "whole parameters", "run the same finetune again")


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


def _write_index(folder: epath.Path, items: Collection[str], corpus: str = "") -> None:
    """Writes the index of a checkpoint whose items are written and which is not committed yet.

    Raises:
      ValueError: it cannot be read back.
    """
    metadata = _read_json(folder / _METADATA)
    index = {
        "corpus": corpus,
        "metadata": _json_sha256(metadata.get("custom_metadata")),
        "files": {
            name: [size, None if is_bucket(folder) else sha256(folder / name)]
            for name, size in sorted(file_sizes(folder).items())
            if name not in _COMMIT
        },
    }
    write_whole(folder / INDEX, json.dumps({"index": index, "sha256": _json_sha256(index)}))
    if damage := _damage(folder, items):
        raise ValueError(damage)


def _read_index(folder: epath.Path) -> dict[str, Any] | None:
    """The index of a checkpoint, None where it has none; raises an exception of any type where it is damaged."""
    if not (folder / INDEX).exists():
        return None
    read = _read_json(folder / INDEX)
    index: dict[str, Any] = read["index"]
    if read["sha256"] != _json_sha256(index):
        raise ValueError(f"{INDEX} has another checksum")
    return index


def _read_json(file: epath.Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except ValueError:
        raise ValueError(f"{file.name} is not JSON") from None


def _json_sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _damaged_steps(folder: epath.Path) -> dict[int, str]:
    """What is wrong with each damaged step in `folder`; in a bucket steps are looked at when they are read."""
    if is_bucket(folder) or not folder.is_dir():
        return {}
    names = [path.name for path in folder.iterdir() if path.is_dir() and re.fullmatch("0|[1-9][0-9]*", path.name)]
    found = {int(name): _damage(folder / name) for name in names}
    return {step: found[step] for step in sorted(found) if found[step]}


def _damage(folder: epath.Path, items: Collection[str] = ITEMS, contents: Collection[str] = ()) -> str:
    """What is wrong with a checkpoint; empty if it is whole.

    items: the folders in it that hold arrays. contents: those of them whose large files are read too.
    """
    with bucket_errors_as_user_errors("checkpoint", folder, "a bucket that can be read"):
        try:
            return next(_damages(folder, items, contents), "")
        except Exception as error:  # what is damaged may raise anything
            if is_bucket(folder):
                raise
            return _one_line(error)


def _damages(folder: epath.Path, items: Collection[str], contents: Collection[str]) -> Iterator[str]:
    sizes = file_sizes(folder)
    if not sizes:
        yield "it is empty"
    for item in items:
        if item and not any(name.startswith(f"{item}/") for name in sizes):
            yield f"it has no {item}"
    for name in (_METADATA, *(os.path.join(item, name) for item in items for name in ("_METADATA", "manifest.ocdbt"))):
        if not sizes.get(name):
            yield f"{name} is {'empty' if name in sizes else 'missing'}"
    if (index := _read_index(folder)) is not None:
        for name, (size, checksum) in index["files"].items():
            if name not in sizes:
                yield f"{name} is missing"
            if sizes[name] != size:
                yield f"{name} has {sizes[name]:,} bytes instead of {size:,}"
            read = size <= _SMALL or any(name.startswith(os.path.join(item, "")) for item in contents)
            if read and checksum and sha256(folder / name) != checksum:
                yield f"{name} has another checksum"
    if not is_bucket(folder):
        for name in sizes.keys() & {"metrics/metrics", *(os.path.join(item, "_METADATA") for item in items)}:
            _read_json(folder / name)
    metadata = _read_json(folder / _METADATA)
    if index is not None and _json_sha256(metadata.get("custom_metadata")) != index["metadata"]:
        yield f"{_METADATA} has another checksum"
    ocp.path.step.Metadata(0, folder).commit_timestamp  # noqa: B018  Orbax reads it of every step


def _one_line(error: Exception) -> str:
    """What an exception says, in short: TensorStore puts what the operating system says at the end of a long line."""
    if system := re.search("os_error_code='([0-9]+)'", str(error)):
        return os.strerror(int(system[1]))
    text = " ".join(str(error).split())
    named = type(error) is ValueError or isinstance(error, OSError)
    return (text if named else f"{type(error).__name__}: {text}")[:300]


def _compare(where: str, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises `UserError` with the first array in which two trees differ, before Orbax says it its way."""
    hint = "set model.* and optim.name as in the config.json of that workdir, or take another"
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            describe = functools.partial(_describe, name=name)
            raise UserError(where, describe(found.get(name)), describe(wanted.get(name)), hint)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {_name(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(tree)}


def _describe(shape: tuple[int, ...] | None, name: str) -> str:
    return f"no {name}" if shape is None else f"{name} of shape {list(shape)}"


def _name(path: tuple[Any, ...]) -> str:
    """Orbax lists namedtuples and tuples as mappings: a path names its keys only, whatever holds them."""
    return ".".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", None)))) for key in path)
