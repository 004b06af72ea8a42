"""One attempt: changes a copy of a valid input and runs a command, or a function that a command calls, on the copy."""

import abc
import contextlib
import io
import os
import re
import shlex
import shutil
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from random import Random
from typing import NamedTuple
from unittest import mock

from bench.fuzz.isolation import environment, limits, own_process_state
from bench.fuzz.mutations.files import change_folder
from bench.fuzz.stand_ins import WorkSkipped, stand_ins
from symbert_jax import __main__ as command_line
from symbert_jax.cli import process
from symbert_jax.errors import UserError


class Outcome(NamedTuple):
    """The result of an attempt."""

    result: str  # success | user error | fault
    history: list[str]  # the changes, and the code that ran
    warned: bool = False  # whether a warning was printed
    fault: str = ""  # identifies the fault; for an exception see `_identify_fault`
    detail: str = ""  # the type and message of the exception, or the last line of a printed traceback
    trace: str = ""  # the traceback of a fault, or all output if the traceback was printed


class Fault(Exception):
    """Raised for a fault that is no exception, such as a wrong exit code."""


class Kind(abc.ABC):
    """A kind of input."""

    suite_attempts = 25  # the number of attempts in the test suite

    def __init__(self, folder: Path):
        """Writes the valid input to `folder`."""
        self.valid_folder = folder
        self.reset()
        with contextlib.chdir(folder), mock.patch.dict(os.environ, environment(folder)):
            self.make(folder)

    def make(self, folder: Path) -> None:  # noqa: B027  some kinds need no files
        """Writes the valid input to the folder, which is the working directory."""

    def reset(self) -> None:  # noqa: B027  some kinds change only files
        """Resets the attributes that `change` sets."""

    def change(self, folder: Path, random: Random) -> list[str]:
        """Changes the copy in `folder`; returns descriptions of the changes."""
        return change_folder(random, folder)

    @abc.abstractmethod
    def run(self, folder: Path, random: Random, history: list[str]) -> None:
        """Runs a command, or a function that a command calls, in the folder, which is the working directory.

        Adds the command, or the function if there is a choice, to the history.
        """


def attempt(kind: Kind, random: Random, *, changed: bool = True) -> Outcome:
    """Copies the valid input, changes the copy and calls `kind.run` on it, in a folder and an environment of its own.

    changed: whether to change the copy.
    """
    history: list[str] = []
    output, trace = io.StringIO(), ""
    with tempfile.TemporaryDirectory(prefix="fuzz_", ignore_cleanup_errors=True) as name:
        folder = Path(name) / "work"
        shutil.copytree(kind.valid_folder, folder, symlinks=True)
        with own_process_state(folder), contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            kind.reset()
            if changed:
                history += kind.change(folder, random)
            try:
                with limits(), stand_ins(), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    kind.run(folder, random, history)
                result, fault, detail = "success", "", ""
            except WorkSkipped:
                result, fault, detail = "success", "", ""
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                result, fault, detail = "user error", "", f"{type(error).__name__}: {error}"
                if not _is_user_error(error):
                    result, fault, trace = "fault", _identify_fault(error), "".join(traceback.format_exception(error))
    # Threads of Orbax print this after a failed restore, often during another attempt, so it is ignored.
    text = re.sub(r"Traceback (?:(?!Traceback)[\s\S])*?RuntimeError: Event loop is closed\n", "", output.getvalue())
    if result != "fault" and "Traceback (most recent call last)" in text:
        start = text.rindex("Traceback (most recent call last)")
        result, fault, detail = "fault", "a traceback printed", text[start:].strip().splitlines()[-1]
        trace = text
    detail = ascii(" ".join(detail.split()))[1:-1][:300]
    return Outcome(result, history, "warning" in text.lower(), fault, detail, trace)


def command(*arguments: str, history: list[str]) -> None:
    """Runs a command as its process would.

    Raises:
      UserError: the command returned 1 or 2, the exit codes of user errors, and its last line on stderr is an error.
      Fault: it returned another exit code, or its last line is no error.
    """
    history.append(f"python -m symbert_jax {shlex.join(arguments)}"[:2000])
    error = io.StringIO()
    try:
        with contextlib.redirect_stderr(error), mock.patch("sys.argv", ["symbert_jax", *arguments]):
            code = command_line.main([*arguments])
    finally:
        sys.stderr.write(error.getvalue())
    if code:
        last = error.getvalue().strip().splitlines()[-1:]
        if code not in (1, 2) or not last or not last[0].startswith("error: "):
            raise Fault(f"exit code {code} without a line that begins with error")
        raise UserError("command", last[0], "success")


def _is_user_error(error: BaseException) -> bool:
    """Whether an exception is a user error: the command line reports it in one line, and it is not a lack of memory."""
    return isinstance(error, UserError | OSError) and process.as_user_error(error) is not None


def _identify_fault(error: BaseException) -> str:
    """Returns the message of a `Fault`; for another exception its type, and a line of its traceback.

    The line is the innermost one in the package or, if the package is not in the traceback, the innermost one.
    """
    if isinstance(error, Fault):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/symbert_jax/" in frame.filename]
    frame = (own or frames)[-1]
    file = frame.filename.rpartition("/symbert_jax/" if own else "/")[2]
    return f"{type(error).__name__} in {file}:{frame.lineno} {frame.name}"
