"""Agreement of the processes of a run: they compare values and wait for each other.

All functions but `is_main_process` are collective: every process must call them in the same order.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import PartitionSpec

from symbert_jax.distributed import shutdown
from symbert_jax.errors import UserError
from symbert_jax.storage import lock


def is_main_process() -> bool:
    """Whether this is the main process. It alone prints progress and writes files; all write checkpoints and traces."""
    return jax.process_index() == 0


@contextlib.contextmanager
def user_errors_on_all_processes() -> Iterator[None]:
    """If a `UserError` is raised inside of the context on one process, raises a `UserError` on every process."""
    own_error = None
    try:
        yield
    except UserError as error:
        own_error = error
    failed = multihost_utils.process_allgather(np.array(own_error is not None)).reshape(-1)
    if own_error:
        raise own_error
    if failed.any():
        raise UserError(f"process {failed.argmax()}", "an error", "none", "see its output")


@contextlib.contextmanager
def same_on_all_processes() -> Iterator[dict[str, Any]]:
    """Yields a dict to fill; on exit, compares its values between the processes.

    The keys are the fields that the values come from, the same keys on all processes.

    Raises:
      UserError: on every process, if a value differs or a process raises a `UserError` inside of the context.
    """
    facts: dict[str, Any] = {}
    with user_errors_on_all_processes():
        yield facts
    digests = np.stack(
        [np.frombuffer(hashlib.sha256(repr(fact).encode()).digest(), np.uint8) for fact in facts.values()]
    )
    all_digests = multihost_utils.process_allgather(digests).reshape(-1, *digests.shape)  # process, fact, byte
    for name, digest in zip(facts, all_digests.swapaxes(0, 1), strict=True):
        if (differs := (digest != digest[0]).any(axis=-1)).any():
            found = f"{facts[name]!r} on process {jax.process_index()}"
            raise UserError(name, found, "the same everywhere", f"processes 0 and {differs.argmax()} differ")


@contextlib.contextmanager
def workdir_lock(workdir: epath.Path) -> Iterator[None]:
    """Keeps other runs out of `workdir` while the context lasts; the main process holds the lock.

    Raises:
      UserError: on every process, if another run holds it or the folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        with user_errors_on_all_processes():
            if is_main_process():
                # an exit that does not unwind the stack also releases the lock
                shutdown.before_exit.callback(stack.close)
                stack.enter_context(lock(workdir, "workdir"))
        yield


def connect_devices() -> None:
    """Connects the devices along every axis of the current mesh by a small exchange.

    The first exchange of a group of CPUs fails if a process is 30 s late. Call this before the processes compile large
    programs, because one may take much longer than another.
    """
    if jax.process_count() > 1:
        axes = jax.sharding.get_mesh().shape
        ones = jnp.ones(tuple(axes.values()), out_sharding=PartitionSpec(*axes))
        jax.block_until_ready(jax.jit(lambda ones: (ones.sum(0), ones.sum(1), ones.sum()))(ones))


def broadcast_from_main(value: bool) -> bool:
    """Returns the `value` of the main process, on all processes."""
    return bool(multihost_utils.broadcast_one_to_all(np.array(value)))


def wait_for_all(name: str) -> None:
    """Waits until every process has called it with this name. Each then sees the files that others wrote before."""
    multihost_utils.sync_global_devices(name)


def check_shared(folder: epath.Path) -> None:
    """Raises `UserError` on every process if one of them does not see a file of the main process in `folder`."""
    if jax.process_count() == 1:
        return
    number = multihost_utils.broadcast_one_to_all(np.random.default_rng().integers(2**31, dtype=np.int32))
    probe = folder / f".seen_by_all_{number}"  # a new name, for which no file system has a cached answer
    if is_main_process():
        probe.write_text("")
    wait_for_all("probe written")
    seen = multihost_utils.process_allgather(np.array(probe.exists())).reshape(-1)
    if is_main_process():
        probe.unlink()
    if not seen.all():
        found = f"another {folder} on process {seen.argmin()} than on process 0"
        raise UserError("workdir", found, "one that all processes see", "a shared disk or a bucket")
