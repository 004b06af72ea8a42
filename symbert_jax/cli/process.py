"""The process around a command: streams and limits that cannot end it by surprise, the environment of JAX and its
libraries, exceptions as lines of error with an exit code."""

import contextlib
import errno
import importlib
import io
import os
import resource
import sys
import warnings
from collections.abc import Callable
from typing import Any

from symbert_jax.errors import UserError
from symbert_jax.storage import is_bucket

OPEN_FILES, FEWEST_OPEN_FILES = 4096, 256
ADDRESS_SPACE = 8 << 30  # bytes; threads and memory maps reserve far more than they use

# What a disk, a path or a permission causes. Any other error of the system is a fault of the program.
USER_ERRNOS = {
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),
    *(errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.ENFILE, errno.ESTALE),
    *(errno.ENOTEMPTY, errno.EEXIST, errno.EXDEV, errno.ENODEV, errno.ENXIO),
}


def run_command(command: Callable[[], None]) -> int:
    """Runs a command; returns the exit code and prints a line on stderr for each error.

    0: success. 2, or what the `UserError` says: a mistake that the user can correct, a full disk or memory among them.
    130: Ctrl-C. Raises all other exceptions, which are faults of the program.
    """
    try:
        command()
        return 0
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130  # what shells give a process that SIGINT ended
    except Exception as error:
        if not (user_error := as_user_error(error)):
            raise
    for line in str(user_error).splitlines():
        print(f"error: {line}", file=sys.stderr)
    return user_error.exit_code


def as_user_error(error: Exception) -> UserError | None:
    """Returns what the user can correct about an exception, None where it is a fault of the program."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError) and error.errno in USER_ERRNOS:
        names = " -> ".join(os.fsdecode(name) for name in (error.filename, error.filename2) if name is not None)
        found = ": ".join(filter(None, (names, error.strerror)))  # a write has no name
        return UserError("file", found, "one that can be used")
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error)):
        found = " ".join(str(error).split())[:200] or "not enough"
        hint = "lower data.batch_size, raise optim.accumulate or model.remat, or take more devices; see compile"
        return UserError("memory", found, "a program that fits", hint)
    return None


def protect_streams() -> None:
    """Makes stdout and stderr streams that cannot end the process."""
    for name in ("stdout", "stderr"):
        if not isinstance(stream := getattr(sys, name), UnbreakableStream):
            setattr(sys, name, UnbreakableStream(stream))


class UnbreakableStream:
    """A text stream whose end (`| head -1`, a lost terminal, a full disk under a log) does not end the run."""

    def __init__(self, stream: Any):
        self._stream = stream or open(os.devnull, "w")  # noqa: SIM115  None: it was closed before the start
        if isinstance(self._stream, io.TextIOWrapper):  # a path may have characters that its encoding lacks
            self._stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except (OSError, ValueError):  # ValueError: it is closed
            self._discard()
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._discard()

    def _discard(self) -> None:
        """Discards what is buffered and all that follows."""
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def check_limits() -> None:
    """Raises `UserError` where a limit of the shell would make JAX hang or fail far from its cause.

    Raises the limit of open files where the system allows it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < OPEN_FILES:
        raised = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        if raised < FEWEST_OPEN_FILES:
            wanted, hint = f"at least {FEWEST_OPEN_FILES}", f"ulimit -n {OPEN_FILES}"
            raise UserError("ulimit -n", f"{hard} open files", wanted, hint)
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if space != resource.RLIM_INFINITY and space < ADDRESS_SPACE:
        found = f"{space / 2**30:.1f} GiB of address space"
        raise UserError("ulimit -v", found, f"at least {ADDRESS_SPACE >> 30} GiB", "ulimit -v unlimited")


def configure_libraries(workdir: str) -> None:
    """Sets the cache of compiled programs and keeps libraries quiet unless something is wrong. Call before JAX is used.

    The cache outlives the process; that of a `workdir` in a bucket outlives the machine.
    """
    cache = f"{workdir.rstrip('/')}/xla" if is_bucket(workdir) else os.path.expanduser("~/.cache/symbert_jax/xla")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
    os.environ.setdefault(
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0"
    )  # a start compiles dozens of small programs
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")  # a full disk
    importlib.import_module("jax")  # looks for TPU chips, and sets the following variable if there are none
    if os.environ.get("TPU_SKIP_MDS_QUERY"):  # libtpu, if installed, would warn of values that only a TPU host has
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
