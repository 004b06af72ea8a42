"""Sets up the process of a command: its streams, its limits, and the environment of JAX and other libraries. Turns
exceptions into an exit code and lines on stderr."""

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
from symbert_jax.storage import is_bucket, user_cache

OPEN_FILES, MIN_OPEN_FILES = 4096, 256  # the soft limit that a command asks for, and the least that it accepts
MIN_ADDRESS_SPACE = 8 << 30  # bytes; threads and memory maps reserve far more than they use
HUGE_PAGES = "glibc.malloc.hugetlb=1"  # the value of GLIBC_TUNABLES with which malloc asks Linux for huge pages
# the commands that train, and so allocate the memory of a step again and again
HUGE_PAGES_FOR = {"pretrain", "finetune", "study"}

# Errors that a disk, a path or a permission causes. Any other `OSError` is a fault of the program.
USER_ERRNOS = {
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),
    *(errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.ENFILE, errno.ESTALE),
    *(errno.ENOTEMPTY, errno.EEXIST, errno.EXDEV, errno.ENODEV, errno.ENXIO),
}


def restart_with_huge_pages(argv: list[str]) -> None:
    """Restarts the process of a command that trains, so that its memory consists of huge pages.

    On a CPU, XLA allocates the buffers of every step with malloc and frees them after it; huge pages save most of the
    page faults. The C library reads the variable only when a process starts. A process whose user has set it goes on
    as it is, and so does one that has no glibc, where the variable has no effect.
    """
    trains = not HUGE_PAGES_FOR.isdisjoint(argv)  # flags may precede the command
    if sys.platform == "linux" and trains and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = HUGE_PAGES
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def run_command(command: Callable[[], None]) -> int:
    """Runs a command, prints each error as a line on stderr, and returns the exit code.

    The exit code is 0 after success and 130 after Ctrl-C. After an error that the user can correct, such as a full disk
    or too little memory, it is the `exit_code` of the `UserError`, in general 2. All other exceptions are faults of the
    program and are raised.
    """
    try:
        command()
        return 0
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130  # the exit code that shells report for a process that SIGINT ended
    except Exception as error:
        if not (user_error := as_user_error(error)):
            raise
    for line in str(user_error).splitlines():
        print(f"error: {line}", file=sys.stderr)
    return user_error.exit_code


def as_user_error(error: Exception) -> UserError | None:
    """Returns the `UserError` for an exception that the user can correct, None for a fault of the program."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError) and error.errno in USER_ERRNOS:
        names = " -> ".join(os.fsdecode(name) for name in (error.filename, error.filename2) if name is not None)
        found = ": ".join(filter(None, (names, error.strerror)))  # a failed write has no file name
        return UserError("file", found, "one that can be used")
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error)):
        found = " ".join(str(error).split())[:200] or "not enough"
        change = "lower data.batch_size, raise optim.accumulate, set model.remat=full, or use more devices"
        hint = f"{change}; for a TPU slice, the command compile reports the memory"
        return UserError("memory", found, "a program that fits", hint)
    return None


def protect_streams() -> None:
    """Replaces stdout and stderr by streams whose errors do not end the process."""
    for name in ("stdout", "stderr"):
        if not isinstance(stream := getattr(sys, name), UnbreakableStream):
            setattr(sys, name, UnbreakableStream(stream))


class UnbreakableStream:
    """A text stream that discards its text once it cannot be written (`| head -1`, a lost terminal, a full disk)."""

    def __init__(self, stream: Any):
        self._stream = stream or open(os.devnull, "w")  # noqa: SIM115  None: closed before the start of Python
        if isinstance(self._stream, io.TextIOWrapper):  # a path may contain characters that the encoding lacks
            self._stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except (OSError, ValueError):  # ValueError: the stream is closed
            self._discard()
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._discard()

    def _discard(self) -> None:
        """Discards the buffered text and all further text."""
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def check_limits() -> None:
    """Raises `UserError` if a limit of the shell would make JAX hang or fail far from the cause.

    A limit of open files below OPEN_FILES is first increased to OPEN_FILES, or as far as the system allows.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < OPEN_FILES:
        increased = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (increased, hard))
        if increased < MIN_OPEN_FILES:
            wanted, hint = f"at least {MIN_OPEN_FILES}", f"ulimit -n {OPEN_FILES}"
            raise UserError("ulimit -n", f"{hard} open files", wanted, hint)
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space != resource.RLIM_INFINITY and address_space < MIN_ADDRESS_SPACE:
        found = f"{address_space / 2**30:.1f} GiB of address space"
        raise UserError("ulimit -v", found, f"at least {MIN_ADDRESS_SPACE >> 30} GiB", "ulimit -v unlimited")


def configure_libraries(workdir: str) -> None:
    """Sets the cache of compiled programs, and turns off needless messages of libraries. Call before JAX is used.

    The cache is in the one of the user, or in `workdir` if that is in a bucket: then it outlives the machine.
    Environment variables that the user sets take precedence.
    """
    cache = f"{workdir.rstrip('/')}/xla" if is_bucket(workdir) else os.fspath(user_cache("xla"))
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
    # Even the smallest programs are cached: a start compiles dozens of them.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # A full disk causes this warning.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")
    importlib.import_module("jax")  # JAX looks for TPU chips, and sets TPU_SKIP_MDS_QUERY if there are none
    if os.environ.get("TPU_SKIP_MDS_QUERY"):  # libtpu would warn that these variables of a TPU host are missing
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
