"""How a process joins the others of its run: by its flags, or as Cloud TPU, Kubernetes, SLURM or Open MPI tell it."""

import atexit
import os
import re
import threading

import jax

from symbert_jax.distributed.agreement import wait_for_all
from symbert_jax.distributed.shutdown import watch_peers
from symbert_jax.errors import UserError


class JoinError(UserError):
    """The processes did not connect. A later start may succeed, so the exit code asks a launcher for one."""

    exit_code = 1


def join(
    coordinator: str | None, process: int | None, processes: int | None, timeout: int, lost_after: int, *, saves: bool
) -> None:
    """Initializes `jax.distributed` in a run of several processes. Call before touching devices.

    coordinator, process, processes: HOST:PORT of process 0, the index of this process, and the number of processes.
      If none is given, JAX finds them on Cloud TPU, Kubernetes, SLURM and Open MPI; elsewhere the run has one process.
    timeout: seconds within which all processes must join.
    lost_after: seconds without a heartbeat after which a process counts as lost, and the others end.
    saves: whether the command uses `Stop` to save after SIGTERM; otherwise SIGTERM ends this process.

    Raises:
      UserError: a flag is missing or wrong, or the other processes cannot be found.
      JoinError: not all processes joined in time, or the connection failed.
    """
    flags = {"--coordinator": coordinator, "--process": process, "--processes": processes}
    missing = [flag for flag, value in flags.items() if value is None]
    if processes == 1 or (len(missing) == 3 and not _has_launcher()):
        return
    if 0 < len(missing) < 3:
        raise UserError("command line", f"no {' and no '.join(missing)}", f"all or none of {', '.join(flags)}")
    if coordinator is not None and not re.fullmatch(r".+:\d+", coordinator):
        raise UserError("--coordinator", repr(coordinator), "HOST:PORT of process 0")
    if process is not None and processes is not None and process >= processes:
        raise UserError("--process", str(process), f"at most {processes - 1}, the last of --processes={processes}")
    jax.config.update("jax_enable_preemption_service", saves)
    errors: list[Exception] = []

    def initialize() -> None:
        try:  # JAX gets more time than `timeout`, because it aborts the process when its time is over
            jax.distributed.initialize(
                coordinator,
                processes,
                process,
                initialization_timeout=2 * timeout + 60,
                heartbeat_timeout_seconds=lost_after,
            )
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=initialize, daemon=True)
    thread.start()
    try:
        thread.join(timeout)
    except KeyboardInterrupt:
        atexit.register(os._exit, 130)  # the thread may still be inside JAX, see below
        raise
    if thread.is_alive():
        # The thread is still inside JAX, which would abort at an ordinary exit.
        atexit.register(os._exit, JoinError.exit_code)
        found = "not all of them" if coordinator is None else f"fewer than {processes} at {coordinator}"
        hint = "start the others, let them reach process 0, or raise --join_timeout"
        raise JoinError("processes", found, f"all of them within {timeout} s", hint)
    if errors:
        hint = "" if _on_tpu() else "or --processes=1 for a single process"  # a host of a TPU slice needs the others
        found = " ".join(f"{type(errors[0]).__name__}: {errors[0]}".split())
        # JAX raises ValueError for wrong settings; after any other error, the next start may succeed
        kind = UserError if isinstance(errors[0], ValueError) else JoinError
        raise kind("processes", found, f"an address of process 0 from {', '.join(flags)}", hint)
    watch_peers()
    wait_for_all("joined")


def _has_launcher() -> bool:
    """Whether a launcher says that this process is one of several.

    Only then does `join` let JAX look for the others: elsewhere, JAX would warn about Kubernetes, or connect to servers
    that do not exist.
    """
    variables = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")  # hold the number of processes
    return (
        _on_tpu()
        or "JOB_COMPLETION_INDEX" in os.environ  # an indexed job of Kubernetes
        or any(int(os.environ.get(name, 1)) > 1 for name in variables)
    )


def _on_tpu() -> bool:
    return "tpu" in (jax.config.jax_platforms or "")  # type: ignore[attr-defined]  # JAX sets it on a machine with TPU chips
