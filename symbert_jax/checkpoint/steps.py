"""The checkpoints of a run, by step: saved in the background, checked, and restored."""

import contextlib
import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import orbax.checkpoint as ocp
from etils import epath

from symbert_jax.checkpoint.index import (
    EMA,
    ITEMS,
    METADATA,
    check_path,
    damaged_steps,
    find_damage,
    read_index,
    short_message,
    write_index,
)
from symbert_jax.checkpoint.manager import LOSS, Manager
from symbert_jax.checkpoint.trees import array_shapes, check_same_shapes, empty_arrays
from symbert_jax.config import WEIGHTS, Config, TrainConfig, from_dict
from symbert_jax.distributed import is_main_process, user_errors_on_all_processes
from symbert_jax.errors import UserError
from symbert_jax.storage import absolute, bucket_errors_as_user_errors, is_bucket

FOLDER = "checkpoints"  # the folder of the checkpoints in a workdir
_WINDOW_PREFIX = "window/"  # begins the names of those metrics of a step that `save` received as `window`


class Checkpoints:
    """The checkpoints of one workdir.

    Methods that read a step raise `UserError` if it is missing or damaged; only `window` may return {} instead.
    """

    def __init__(
        self,
        workdir: epath.Path,
        train: TrainConfig | None = None,
        corpus: str = "",
        corpus_changes: Sequence[int] = (),
    ):
        """Opens the checkpoints, to read and write if `train` is given, else only to read.

        train: determines which steps are kept.
        corpus: the fingerprints of the corpora that the run trains on, separated by spaces; empty for none.
        corpus_changes: the steps after which the run reads another corpus, so that losses no longer compare.

        Raises:
          UserError: `workdir` has no checkpoints to read and `train` is None, or the path cannot be used.
        """
        self.folder, self.corpus = workdir / FOLDER, corpus
        self._saving: int | None = None  # the step that is being saved or that `_check_saved` has not checked yet
        # Validation losses by step, which the run adds. They are used for steps that were saved without one.
        self.losses: dict[int, float] = {}
        writes = train is not None
        check_path(workdir, "workdir" if writes else "checkpoint")
        with bucket_errors_as_user_errors("checkpoint", workdir, "a bucket that can be read"):
            if not (writes or self.folder.exists()):
                raise UserError("checkpoint", f"no {self.folder}", "the workdir of a pretrain run")
            try:
                self.damaged = damaged_steps(self.folder)  # descriptions of the damage, by step
                self.manager = Manager(
                    self.folder, train, self.losses, corpus_changes, self.damaged, self._before_commit
                )
            except OSError as error:
                if is_bucket(self.folder):
                    raise
                wanted = "a folder that can be written" if writes else "a folder that can be read"
                raise UserError("checkpoint", f"{self.folder}: {error.strerror or error}", wanted) from None

    def latest(self) -> int | None:
        """Returns the latest step, None if there is none; raises `UserError` if the latest step is damaged."""
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
        ema: Any = None,
    ) -> None:
        """Copies the arrays off the devices and writes them in the background. All processes must call it.

        validation_loss: the loss of these parameters in nats, None if it was not measured.
        window: the sums since the last log point; the method `window` reads them back.
        ema: the moving average of the parameters, None without one.

        Raises:
          UserError: this checkpoint or the one before it cannot be written.
        """
        sums = {_WINDOW_PREFIX + name: value for name, value in (window or {}).items()}
        items = {"params": params, "optimizer": optimizer} | ({} if ema is None else {EMA: ema})
        with self._exceptions_as_failed_save():
            self.manager.wait_until_finished()
            self._check_saved()
            self._saving = step
            self.manager.save(
                step,
                args=ocp.args.Composite(**{item: ocp.args.StandardSave(tree) for item, tree in items.items()}),
                metrics={LOSS: math.inf if validation_loss is None else validation_loss} | sums,
                custom_metadata=dataclasses.asdict(config),
                force=True,
            )

    def close(self) -> None:
        """Waits until the last step is saved; raises `UserError` if it cannot be written."""
        with self._exceptions_as_failed_save():
            self.manager.close()
            self._check_saved()

    def restore(self, step: int, **targets: Any) -> dict[str, Any]:
        """Returns the named items (`params=`, `optimizer=`, `ema=`) of a step, sharded as their targets.

        All processes must call it.

        Raises:
          UserError: the arrays of the step have other names or shapes than the targets.
        """
        with user_errors_on_all_processes():
            self.check_content(step, targets)
        self.check_shapes(step, **targets)
        args = {item: ocp.args.StandardRestore(target) for item, target in targets.items()}
        with self._exceptions_as_damage(step):
            return dict(self.manager.restore(step, args=ocp.args.Composite(**args)))

    def read(self, step: int | None, weights: str = "") -> tuple[Any, Config]:
        """Returns the parameters of a step as numpy arrays, and the config of its run. All processes must call it.

        step: None means the latest.
        weights: ema, the moving average of the parameters; raw, the parameters themselves; empty: the average if the
          step has one.
        """
        step = self.check_step(step)
        item = self.find_weights(step, weights)
        with user_errors_on_all_processes():
            self.check_content(step, (item,))
        config = self.config(step)
        with self._exceptions_as_damage(step):
            target = empty_arrays(self.manager.item_metadata(step)[item])
            restored = self.manager.restore(step, args=ocp.args.Composite(**{item: ocp.args.StandardRestore(target)}))
        return restored[item], config

    def has_ema(self, step: int) -> bool:
        """Whether a step has a moving average of the parameters."""
        with self._exceptions_as_damage(step):
            return self.manager.item_metadata(step).get(EMA) is not None

    def find_weights(self, step: int, weights: str) -> str:
        """Returns the item of a step that holds the `weights`; raises `UserError` if there is none. See `read`."""
        if weights not in ("", *WEIGHTS):
            raise UserError("weights", repr(weights), f"one of {', '.join(WEIGHTS)}")
        has_ema = weights != "raw" and self.has_ema(step)
        if weights == "ema" and not has_ema:
            found = f"no moving average in step {step} of {self.folder}"
            raise UserError("weights", found, "the checkpoint of a run with optim.ema")
        return EMA if has_ema else "params"

    def config(self, step: int) -> Config:
        """Returns the config of the run that saved a step."""
        self.check_step(step)
        with self._exceptions_as_damage(step):
            tree = self.manager.metadata(step).custom_metadata
        try:
            if not tree:
                raise UserError("config", "none", "the config of its run")
            return from_dict(tree)
        except UserError as error:
            raise self._damage_error(step, f"{METADATA}: {error}") from None

    def corpora_of(self, step: int) -> list[str]:
        """Returns the fingerprints of the corpora of the run that saved a step, in its order; none if unknown."""
        self.check_step(step)
        with self._exceptions_as_damage(step):
            return str((read_index(self.folder / str(step)) or {}).get("corpus", "")).split()

    def window(self, step: int) -> dict[str, float]:
        """Returns the sums that `save` received as `window`.

        Returns {} if the step is missing, was found damaged when these checkpoints were opened, or has no sums, as
        steps of older versions.
        """
        if step not in self.manager.all_steps():
            return {}
        with self._exceptions_as_damage(step):
            metrics = self.manager.metrics(step) or {}
        return {
            name.removeprefix(_WINDOW_PREFIX): value
            for name, value in metrics.items()
            if name.startswith(_WINDOW_PREFIX)
        }

    def latest_steps(self, count: int) -> list[int]:
        """Returns the latest `count` steps in their order, damaged ones included; fewer if there are not as many."""
        return sorted({*self.manager.all_steps(), *self.damaged})[-count:]

    def check_step(self, step: int | None) -> int:
        """Returns the step if it exists and was not found damaged when these checkpoints were opened.

        Opening them checks the names and sizes of the files of all steps and the content of small files; in a bucket,
        it checks nothing.

        step: None means the latest.

        Raises:
          UserError: there is no such step, or it is damaged.
        """
        step = self.latest() if step is None else step
        if step is None:
            raise UserError("checkpoint", f"none in {self.folder}", "a finished checkpoint")
        if step in self.damaged:
            raise self._damage_error(step, self.damaged[step])
        if step not in (steps := self.manager.all_steps()):
            raise UserError("checkpoint", f"no step {step} in {self.folder}", f"one of {sorted(steps)}")
        return step

    def check_content(self, step: int, items: Collection[str] = ITEMS) -> None:
        """Reads all files of these items and compares them with the index, on the main process alone.

        In a bucket, compares only their sizes.

        Raises:
          UserError: on the main process, if the step is damaged.
        """
        self.check_step(step)
        if is_main_process() and (damage := find_damage(self.folder / str(step), contents=items)):
            raise self._damage_error(step, damage)

    def check_shapes(self, step: int, **targets: Any) -> None:
        """Raises `UserError` if the items of a step have other arrays than the targets. A target needs no shardings."""
        self.check_step(step)
        with self._exceptions_as_damage(step):
            saved = self.manager.item_metadata(step)
            shapes = {item: array_shapes(saved[item]) for item in targets}
        for item, target in targets.items():
            check_same_shapes(f"{self.folder}/{step}/{item}", shapes[item], array_shapes(target))

    def _damage_error(self, step: int, damage: str) -> UserError:
        """Returns the error about a damaged step; its hint names the latest whole step, or says that there is none."""
        folder = self.folder / str(step)
        others = sorted(set(self.manager.all_steps()) - {step}, reverse=True)
        whole = next((other for other in others if not find_damage(self.folder / str(other), contents=ITEMS)), None)
        hint = "no other step is whole: start in a new workdir"
        if whole is not None:
            hint = (
                f"the latest whole step is {whole}: take it with --step={whole} (finetune: --config.checkpoint_steps="
                f"{whole}), or move {folder} away and run the same command again"
            )
        return UserError("checkpoint", f"{folder} damaged: {damage}", "a whole checkpoint", hint)

    @contextlib.contextmanager
    def _exceptions_as_damage(self, step: int) -> Iterator[None]:
        """Converts any exception to a `UserError`: the step is damaged, or its bucket cannot be read."""
        with bucket_errors_as_user_errors("checkpoint", self.folder, "a bucket that can be read"):
            try:
                yield
            except Exception as error:
                if is_bucket(self.folder):
                    raise
                raise self._damage_error(step, short_message(error)) from error

    @contextlib.contextmanager
    def _exceptions_as_failed_save(self) -> Iterator[None]:
        """Converts any exception to a `UserError`, also those of a save in the background, which Orbax raises later."""
        with bucket_errors_as_user_errors("checkpoint", self.folder, "a bucket that can be written"):
            try:
                yield
            except Exception as error:
                step, self._saving = self._saving, None
                if is_bucket(self.folder):
                    raise
                found = f"step {step} not saved in {self.folder}: {short_message(error)}"
                hint = "earlier checkpoints are intact, and the same command continues from the latest of them"
                raise UserError("checkpoint", found, "a disk with room that can be written", hint) from error

    def _check_saved(self) -> None:
        """Checks the step that Orbax has saved; raises ValueError if it is damaged."""
        saved = self._saving
        if saved is not None and is_main_process() and (damage := find_damage(self.folder / str(saved))):
            raise ValueError(damage)
        self._saving = None

    def _before_commit(self) -> None:
        """Writes the index of the step that is being saved; see `before_commit` of `Manager`."""
        name = str(self._saving)
        folder = self.folder / (name if is_bucket(self.folder) else name + ocp.utils.TMP_DIR_SUFFIX)
        write_index(folder, ITEMS, self.corpus)


def load(workdir: epath.PathLike, step: int | None = None, weights: str = "") -> tuple[Any, Config]:
    """Returns the parameters of a checkpoint, a nested dict of numpy arrays, and the config of its run.

    step: None means the latest.
    weights: as in `Checkpoints.read`.

    Raises:
      UserError: there is no such checkpoint, or it is damaged.
    """
    with contextlib.closing(Checkpoints(absolute(workdir))) as checkpoints:
        return checkpoints.read(step, weights)
