"""One try of an input: a copy of a valid one is changed, and the code under a command runs on it."""

import contextlib
import io
import os
import re
import resource
import shlex
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple
from unittest import mock

import jax
from absl import flags

from bench.fuzz.mutations.content import Random, change_folder
from symbert_jax import __main__ as command_line
from symbert_jax.data import python_docs
from symbert_jax.errors import UserError

SECONDS, BYTES = 20.0, 4 << 30  # that one input may take


class Outcome(NamedTuple):
    """How an input ended."""

    result: str  # success | user error | fault
    story: list[str]  # what was changed, and what was run
    warned: bool = False  # whether a warning was printed
    fault: str = ""  # what tells one fault from another: the type and the innermost line of the package
    detail: str = ""  # the message
    trace: str = ""  # the traceback


class Hang(BaseException):
    """An input that takes longer than it may; no handler of the package catches it."""


class Fault(Exception):
    """What is a fault without an exception."""


class Reached(Exception):
    """All that is tried of a command went well; what follows would take too long."""


class Kind:
    """One kind of input. Its name is that of its class, in words."""

    examples = 25  # of the test in the suite

    def __init__(self, valid: Path):
        """Makes the valid input in the folder `valid`."""
        self.valid = valid
        self.reset()
        with contextlib.chdir(valid), mock.patch.dict(os.environ, _environment(valid)):
            self.make(valid)

    def make(self, folder: Path) -> None:
        """Writes the valid input to the folder, which is the current one."""

    def reset(self) -> None:
        """Sets what `change` changes besides the folder to the valid input."""

    def change(self, folder: Path, random: Random) -> list[str]:
        """Changes the copy in `folder`; returns what was done."""
        return change_folder(random, folder)

    def run(self, folder: Path, random: Random, story: list[str]) -> None:
        """Runs the code under the command, in the folder; adds to the story what was run, where there is a choice."""
        raise NotImplementedError


def attempt(kind: Kind, random: Random, *, changed: bool = True) -> Outcome:
    """Changes a copy of the valid input and runs the code on it, in a folder and an environment of its own.

    changed: False runs the code on the valid input.
    """
    story: list[str] = []
    output, trace = io.StringIO(), ""
    with tempfile.TemporaryDirectory(prefix="fuzz_", ignore_cleanup_errors=True) as name:
        folder = Path(name) / "work"
        shutil.copytree(kind.valid, folder, symlinks=True)
        with _own_process_state(folder), contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            kind.reset()
            if changed:
                story += kind.change(folder, random)
            try:
                with _limits(), _no_network(), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    kind.run(folder, random, story)
                result, fault, detail = "success", "", ""
            except Reached:
                result, fault, detail = "success", "", ""
            except (UserError, OSError) as error:  # the command line tells either in one line
                result, fault, detail = "user error", "", f"{type(error).__name__}: {error}"
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                result, fault, detail = "fault", _where(error), f"{type(error).__name__}: {error}"
                trace = "".join(traceback.format_exception(error))
    # Threads of Orbax say this of a restore that failed, at any later time: which input it was of nobody can tell.
    text = re.sub(r"Traceback (?:(?!Traceback)[\s\S])*?RuntimeError: Event loop is closed\n", "", output.getvalue())
    if result != "fault" and "Traceback (most recent call last)" in text:
        at = text.rindex("Traceback (most recent call last)")
        result, fault, detail = "fault", "a traceback printed", text[at:].strip().splitlines()[-1]
        trace = text
    return Outcome(result, story, "warning" in text.lower(), fault, ascii(" ".join(detail.split()))[1:-1][:300], trace)


def _where(error: BaseException) -> str:
    """The type of an exception and the innermost line of the package, or of anything, that it came through."""
    if isinstance(error, Fault):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/symbert_jax/" in frame.filename]
    frame = (own or frames)[-1]
    file = frame.filename.rpartition("/symbert_jax/" if own else "/")[2]
    return f"{type(error).__name__} in {file}:{frame.lineno} {frame.name}"


def _environment(folder: Path) -> dict[str, str]:
    return {"HOME": os.fspath(folder), "TFDS_DATA_DIR": os.fspath(folder / "tfds")}


@contextlib.contextmanager
def _own_process_state(folder: Path) -> Iterator[None]:
    """Working directory, environment, modules and signal handlers are as before when the context ends."""
    modules, path = set(sys.modules), [*sys.path]
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    cache = jax.config.jax_enable_compilation_cache
    try:
        with contextlib.chdir(folder), mock.patch.dict(os.environ, _environment(folder)):
            yield
    finally:
        sys.path[:] = path
        for module in set(sys.modules) - modules:
            if str(getattr(sys.modules[module], "__file__", "")).startswith(os.fspath(folder)):
                del sys.modules[module]
        for number, handler in handlers.items():
            signal.signal(number, handler)
        jax.config.update("jax_enable_compilation_cache", cache)


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    """Raises `Hang` after SECONDS, and lets the process ask for no more than BYTES besides what it has."""

    def hang(number: int, frame: FrameType | None) -> None:
        raise Hang(f"longer than {SECONDS:.0f} s")

    status = Path("/proc/self/status").read_text()
    used = int(status.partition("VmData:")[2].split()[0]) << 10
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    before = signal.signal(signal.SIGALRM, hang)
    resource.setrlimit(resource.RLIMIT_DATA, (used + BYTES, hard))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _no_network() -> Iterator[None]:
    """Neither the Hugging Face hub nor other processes are asked for anything."""
    from huggingface_hub import constants

    with (
        mock.patch.object(constants, "HF_HUB_OFFLINE", True),
        mock.patch("jax.distributed.initialize", side_effect=RuntimeError("no process there")),
        mock.patch.object(python_docs, "_modules", lambda root, without: []),
    ):
        yield


def command(*arguments: str, story: list[str]) -> None:
    """Runs a command as its process would; raises `UserError` where the process would tell one."""
    story.append(f"python -m symbert_jax {shlex.join(arguments)}"[:2000])
    own = sys.argv
    before = {name: dict(flags.FLAGS[name].__dict__) for name in flags.FLAGS}
    sys.argv = ["symbert_jax", *arguments]
    error = io.StringIO()
    try:
        with contextlib.redirect_stderr(error):
            code = command_line.main([*arguments])
    except SystemExit as leaving:
        code = leaving.code or 0
    finally:
        sys.argv = own
        sys.stderr.write(error.getvalue())
        for name in list(flags.FLAGS):
            if name in before:
                flags.FLAGS[name].__dict__.update(before[name])
            else:
                delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()
    if code:
        last = error.getvalue().strip().splitlines()[-1:]
        if code not in (1, 2) or not last or not last[0].startswith("error: "):
            raise Fault(f"exit code {code} without a line that begins with error")
        raise UserError("command", last[0], "success")
