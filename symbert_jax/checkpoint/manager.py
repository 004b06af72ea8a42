"""Orbax's checkpoint manager as this project uses it: which steps it finds and keeps, and what it prints."""

import asyncio
import logging
import math
import os
import shutil
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies
from orbax.checkpoint._src import asyncio_utils

from symbert_jax.checkpoint.index import EMA, ITEMS
from symbert_jax.config import TrainConfig
from symbert_jax.distributed import is_main_process
from symbert_jax.storage import is_bucket

LOSS = "validation/loss"  # a metric of every step; infinite if it was not measured
_DELETED = "deleted"  # the subfolder to which steps are moved before their files are removed

# Orbax logs every exception that it raises, with a traceback. The callers report these exceptions in one line.
logging.getLogger("absl").addFilter(
    lambda record: record.levelno < logging.ERROR or f"{os.sep}orbax{os.sep}" not in record.pathname
)


def _finish_all_tasks(run_sync: Callable[[Coroutine[Any, Any, Any]], Any]) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Wraps the function with which Orbax runs every coroutine, so that failed tasks print nothing.

    If an array cannot be written, as on a full disk, Orbax raises that error and closes the event loop at once, while
    TensorStore still writes other arrays. Each of these writes would later print a traceback about a closed event loop,
    or about an exception that was never retrieved. So the loop stays open until all tasks have ended, and ignores the
    exceptions of the other tasks.
    """

    async def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        asyncio.get_running_loop().set_exception_handler(_ignore_unretrieved)
        try:
            return await coroutine
        finally:
            while others := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.gather(*others, return_exceptions=True)

    return lambda coroutine: run_sync(run(coroutine))


def _ignore_unretrieved(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if "never retrieved" not in context["message"]:
        loop.default_exception_handler(context)


asyncio_utils.run_sync = _finish_all_tasks(asyncio_utils.run_sync)

# Devices that hold the same array share the work of saving it: each saves a slice. Every slice is a program that must
# be compiled before the first checkpoint, which takes longer than it saves for a small array. The handler that Orbax
# registers has no public setting for it.
ocp.type_handlers.get_type_handler(jax.Array)._min_slice_bytes_for_replica_parallel = 2**20


class Manager(ocp.CheckpointManager):
    """Saves, finds, restores and deletes the steps in a folder; each holds the trees of `ITEMS`, and may hold `EMA`."""

    def __init__(
        self,
        folder: epath.Path,
        train: TrainConfig | None,
        losses: dict[int, float],
        corpus_changes: Sequence[int],
        damaged: Collection[int],
        before_commit: Callable[[], None],
    ):
        """Opens the steps in a folder.

        train: determines which steps are kept; with None, the manager only reads, and changes nothing on disk.
        losses: validation losses by step, used for steps that were saved without one; the caller may add more later.
        corpus_changes: the steps after which losses no longer compare with earlier ones.
        damaged: the steps that are ignored.
        before_commit: called in the background on the main process when the files of a step are written, before Orbax
          commits the step.
        """
        writes = train is not None
        if writes:
            _remove_deleted(folder)  # a killed run may have left some
        super().__init__(
            folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=_preservation(train, _Best(losses, corpus_changes)) if train else None,
                best_fn=_loss,  # `_Best` decides, but without this Orbax would not store the losses
                best_mode="min",
                create=writes,
                cleanup_tmp_directories=writes,
                # To save this metadata, a process waits for all others, but a reader may be a single process.
                save_root_metadata=writes,
                step_name_format=_WholeSteps(damaged),
                todelete_subdir=_DELETED,
                async_options=ocp.AsyncOptions(post_finalization_callback=before_commit),
            ),
            item_handlers={item: ocp.StandardCheckpointHandler() for item in (*ITEMS, EMA)},
        )

    def reached_preemption(self, step: int) -> bool:
        """Returns False: the training loop handles preemption.

        Orbax would ask JAX with the step of the checkpoint, where the loop passes the steps since the process started.
        JAX chooses the step to stop at from these numbers.
        """
        return False

    def _finalize(self, step: int, steps_to_remove: list[int]) -> None:
        """In the background, commits a step, moves the steps that are no longer kept, and removes their files."""
        super()._finalize(step, steps_to_remove)
        if steps_to_remove:
            _remove_deleted(self.directory)


def _remove_deleted(folder: epath.Path) -> None:
    if is_main_process() and not is_bucket(folder):
        shutil.rmtree(folder / _DELETED, ignore_errors=True)


class _WholeSteps:
    """Orbax's format of step names, but `find_all` leaves damaged steps out, so Orbax never reads or deletes them."""

    def __init__(self, damaged: Collection[int]):
        self._standard, self._damaged = ocp.path.step.standard_name_format(), damaged

    def build_name(self, step: int) -> str:
        return self._standard.build_name(step)

    def find_step(self, base_path: epath.PathLike, step: int) -> Any:
        return self._standard.find_step(base_path, step)

    def find_all(self, base_path: epath.PathLike) -> Iterator[Any]:
        return (found for found in self._standard.find_all(base_path) if found.step not in self._damaged)


def _preservation(train: TrainConfig, best: "_Best") -> policies.AnyPreservationPolicy:
    """Returns the policy that keeps the latest steps, the best one, and the multiples of `keep_every`."""
    kept: list[Any] = [policies.LatestN(train.keep_latest), best]
    if train.keep_every:
        kept.append(policies.EveryNSteps(train.keep_every))
    return policies.AnyPreservationPolicy(kept)


class _Best(policies.PreservationPolicy):
    """Keeps the step with the lowest validation loss on the current corpus, and steps without metrics.

    Orbax's own policy ignores losses that were measured after a save.
    """

    def __init__(self, losses: dict[int, float], corpus_changes: Sequence[int]):
        self.losses, self.corpus_changes = losses, corpus_changes

    def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
        del context
        stored = [math.inf if info.metrics is None else _loss(info.metrics) for info in checkpoints]
        pairs = zip(checkpoints, stored, strict=True)
        losses = [self.losses.get(info.step, loss) if loss == math.inf else loss for info, loss in pairs]
        latest = max((info.step for info in checkpoints), default=0)
        change = max((step for step in self.corpus_changes if step < latest), default=-1)
        comparable = [i for i, info in enumerate(checkpoints) if info.step > change]
        best = min(reversed(comparable), key=losses.__getitem__, default=None)  # of equal losses, the latest
        return [i == best or info.metrics is None for i, info in enumerate(checkpoints)]


def _loss(metrics: dict[str, float]) -> float:
    return metrics[LOSS]
