"""This process's place among the others of a run: it joins them and compares notes with them."""

import atexit
import contextlib
import hashlib
import os
import re
import threading
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


class Absent(UserError):
    """The others did not come. They may yet: a launcher that starts again does right."""

    exit_code = 1


def join(
    coordinator: str | None, process: int | None, processes: int | None, timeout: int, lost_after: int, *, saves: bool
) -> None:
    """Meets the other processes of the run before any device is touched; a machine alone stays a single process.

    coordinator, process, processes: HOST:PORT of process 0, which one this is, and of how many. Where none is given,
      JAX finds out on Cloud TPU, Kubernetes and SLURM.
    timeout: seconds until all must have come.
    lost_after: seconds of silence after which a process counts as lost, which ends the others.
    saves: from now on SIGTERM waits for `Stop`; else it ends this process.

    Raises:
      UserError: the others cannot be found.
      Absent: they did not all come in time.
    """
    place = {"--coordinator": coordinator, "--process": process, "--processes": processes}
    lacking = [flag for flag, value in place.items() if value is None]
    if processes == 1 or (len(lacking) == 3 and not _started_with_others()):
        return
    if 0 < len(lacking) < 3:
        raise UserError("command line", f"no {' and no '.join(lacking)}", f"all or none of {', '.join(place)}")
    if coordinator is not None and not re.fullmatch(r".+:\d+", coordinator):
        raise UserError("--coordinator", repr(coordinator), "HOST:PORT of process 0")
    if process is not None and processes is not None and process >= processes:
        raise UserError("--process", str(process), f"at most {processes - 1}, the last of --processes={processes}")
    jax.config.update("jax_enable_preemption_service", saves)
    failed: list[Exception] = []

    def initialize() -> None:
        try:  # JAX is given more time, because where its own runs out it aborts the process
            jax.distributed.initialize(
                coordinator,
                processes,
                process,
                initialization_timeout=2 * timeout + 60,
                heartbeat_timeout_seconds=lost_after,
            )
        except Exception as error:
            failed.append(error)

    waiting = threading.Thread(target=initialize, daemon=True)
    waiting.start()
    try:
        waiting.join(timeout)
    except KeyboardInterrupt:
        atexit.register(os._exit, 130)  # as below
        raise
    if waiting.is_alive():
        atexit.register(os._exit, Absent.exit_code)  # the thread stays inside JAX, whose own way out is loud
        found = "not all of them" if coordinator is None else f"fewer than {processes} at {coordinator}"
        hint = "start the others, let them reach process 0, or raise --join_timeout"
        raise Absent("processes", found, f"all of them within {timeout} s", hint)
    if failed:
        hint = "" if _on_tpu() else "or --processes=1 for this process alone"  # a host of a slice cannot be alone
        found = " ".join(f"{type(failed[0]).__name__}: {failed[0]}".split())
        kind = UserError if isinstance(failed[0], ValueError) else Absent  # the latter is worth another start
        raise kind("processes", found, f"the way to the others, {', '.join(place)}", hint)
    shutdown.watch()
    wait_for_all("joined")


def first() -> bool:
    """Whether this is the process that speaks and writes for all."""
    return jax.process_index() == 0


@contextlib.contextmanager
def agreed() -> Iterator[dict[str, Any]]:
    """What every process finds inside, all must find alike: facts to compare, by the field they come from.

    Raises:
      UserError: on every process, when one of them met a `UserError` inside or another fact than the others.
    """
    facts: dict[str, Any] = {}
    failed = None
    try:
        yield facts
    except UserError as error:
        failed = error
    failures = multihost_utils.process_allgather(np.array(failed is not None)).reshape(-1)
    if failed:
        raise failed
    if failures.any():
        number = failures.argmax()
        raise UserError(f"process {number}", "an error", "none", "that process says which")
    if not facts:
        return
    digests = np.stack(
        [np.frombuffer(hashlib.sha256(repr(fact).encode()).digest(), np.uint8) for fact in facts.values()]
    )
    everywhere = multihost_utils.process_allgather(digests).reshape(-1, *digests.shape)  # process, fact, byte
    for name, digest in zip(facts, everywhere.swapaxes(0, 1), strict=True):
        if (other := (digest != digest[0]).any(axis=-1)).any():
            found = f"{facts[name]!r} on process {jax.process_index()}"
            raise UserError(name, found, "the same everywhere", f"processes 0 and {other.argmax()} differ")


@contextlib.contextmanager
def locked(workdir: epath.Path) -> Iterator[None]:
    """Keeps every other run out of `workdir` for as long as the context lasts; the main process holds the lock.

    Raises:
      UserError: on every process, when another run holds it.
    """
    with contextlib.ExitStack() as held:
        with agreed():
            if first():
                held.enter_context(lock(workdir, "workdir"))
                shutdown.before_end.callback(held.close)
        yield


def connect() -> None:
    """Lets the devices along every axis of the current mesh exchange something now, when all processes are here.

    The first exchange of a group of CPUs ends in an error after 30 s; one process may compile longer than another.
    """
    if jax.process_count() > 1:
        axes = jax.sharding.get_mesh().shape
        ones = jnp.ones(tuple(axes.values()), out_sharding=PartitionSpec(*axes))
        jax.block_until_ready(jax.jit(lambda ones: (ones.sum(0), ones.sum(1), ones.sum()))(ones))


def from_first(value: bool) -> bool:
    """What the first process passes; every process takes part."""
    return bool(multihost_utils.broadcast_one_to_all(np.array(value)))


def wait_for_all(what: str) -> None:
    """Returns once every process has called it: what any of them has written is there for all."""
    multihost_utils.sync_global_devices(what)


def require_shared(folder: epath.Path) -> None:
    """Raises `UserError` on every process where one of them does not see in `folder` what the first writes there."""
    if jax.process_count() == 1:
        return
    number = multihost_utils.broadcast_one_to_all(np.random.default_rng().integers(2**31, dtype=np.int32))
    probe = folder / f".seen_by_all_{number}"  # a name that no file system has an old answer to
    if first():
        probe.write_text("")
    wait_for_all("probe written")
    seen = multihost_utils.process_allgather(np.array(probe.exists())).reshape(-1)
    if first():
        probe.unlink()
    if not seen.all():
        found = f"another {folder} on process {seen.argmin()} than on process 0"
        raise UserError("workdir", found, "one that all processes see", "a shared disk or a bucket")


def _started_with_others() -> bool:
    """Whether a launcher says that this process is one of several.

    JAX itself is asked only then: elsewhere it warns of Kubernetes, or asks servers that are not there.
    """
    counts = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    return (
        _on_tpu()
        or "JOB_COMPLETION_INDEX" in os.environ  # an indexed job of Kubernetes
        or any(int(os.environ.get(name, 1)) > 1 for name in counts)
    )


def _on_tpu() -> bool:
    return "tpu" in (jax.config.jax_platforms or "")  # type: ignore[attr-defined]  # JAX sets it where there are chips
