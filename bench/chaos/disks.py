"""Disks that fail: the command must succeed or end with one line of error, and continue once the disk works again."""

import contextlib
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from bench.chaos.commands import Command
from bench.chaos.runs import Run
from bench.chaos.starts import ONE_PROCESS, StartedCommand


class DiskRun(NamedTuple):
    """A run whose first start met a fault of its disk."""

    fault: str  # and when it began
    exit_code: int  # of the first start
    run: Run


def run_on_failing_disk(
    command: Command,
    folder: Path,
    seed: int,
    fault: Callable[[Path], contextlib.AbstractContextManager],
    before_start: bool,
) -> DiskRun:
    """Runs a command below `folder` on a disk that fails, and again when the disk works.

    fault: `full` or `read_only`.
    before_start: whether the fault begins before the start; if not, at a random time after the first step.
    """
    name = f"disk-{command.name}-{fault.__name__}-{'before' if before_start else 'during'}"
    run, rng = Run(command, folder / name), random.Random(f"{seed} {name}")
    with mounted(run.folder):
        with contextlib.ExitStack() as stack:
            if before_start:
                stack.enter_context(fault(run.folder))
            started = stack.enter_context(StartedCommand(command, run.folder, ONE_PROCESS))
            if not before_start:
                started.wait_for_first_step()
                started.wait(rng.uniform(0, command.reference.seconds_after_first_step / 2))
                stack.enter_context(fault(run.folder))
            if started.wait_for_end():
                run.unexpected.append("it does not end")
            if left := started.close():
                run.unexpected.append(f"{left} further processes were left running")
        output, code = started.output(), started.processes[0].returncode
        errors = [line for line in output.splitlines() if line.startswith("error: ")]
        if "Traceback" in output or (code and (code not in (1, 2) or len(errors) != 1)):
            traceback = "a traceback, " if "Traceback" in output else ""
            run.unexpected.append(f"{traceback}exit code {code}, the last line is {started.last_line()!r}")
        run.start(ONE_PROCESS)
        run.compare()
        if run.findings:  # unmounting loses the files, so they are copied
            shutil.copytree(run.folder, folder / f"{name}.copy")
    run.report(f"{name}, exit code {code}, {errors[0][:100] if errors else 'no error'!r}")
    when = "before the start" if before_start else "at a random moment"
    return DiskRun(f"{fault.__name__.replace('_', '-')} {when}", code, run)


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """Creates a folder and mounts a file system of 64 MiB in memory on it."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@contextlib.contextmanager
def full(folder: Path) -> Iterator[None]:
    """Fills the file system of a folder with a file, which also grows into all space that becomes free."""
    ballast, done = folder / "ballast", threading.Event()

    def fill() -> None:
        with ballast.open("wb", buffering=0) as file:
            while not done.wait(0.002):
                for size in (1 << 20, 1 << 12):
                    with contextlib.suppress(OSError):
                        while file.write(bytes(size)) == size and not done.is_set():
                            pass

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        while shutil.disk_usage(folder).free:
            time.sleep(0.001)
        yield
    finally:
        done.set()
        thread.join()
        ballast.unlink()


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Makes a folder read-only by a bind mount: a file system cannot become read-only while files are being written."""
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def may_mount(folder: Path) -> bool:
    """Returns whether this user may mount file systems below a folder."""
    try:
        with mounted(folder / "probe"), read_only(folder / "probe"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False
