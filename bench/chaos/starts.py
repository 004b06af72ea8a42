"""One start of a command: its processes, a signal to one of them, and how all of them end."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from bench.chaos.commands import AFTER_STEPS, BEFORE_STEPS, Command

ROOT = Path(__file__).parents[2]
TIMEOUT = 400.0  # seconds after which a running process counts as hanging
SURVIVORS_TIMEOUT = 60.0  # seconds within which the other processes of a run must end after one was killed
SIGNALS = {signal.SIGKILL: 6, signal.SIGTERM: 2, signal.SIGINT: 1, signal.SIGHUP: 1}  # drawn by these weights


class Layout(NamedTuple):
    """The processes of a run and its mesh."""

    processes: int = 1
    devices: int = 1  # CPU devices of each process
    flags: tuple[str, ...] = ()


ONE_PROCESS = Layout()


class Kill(NamedTuple):
    """A signal that was sent to a process, and the phase of the run when it was sent."""

    number: signal.Signals
    phase: str
    process: int

    def __str__(self) -> str:
        return f"{self.number.name} {self.phase}"


class StartedCommand:
    """A command that was started: one process or several, each a session of its own, with its output in a file.

    Runs whose folders have the same parent share a compilation cache there. Leaving the context with an exception ends
    the processes.
    """

    def __init__(self, command: Command, folder: Path, layout: Layout):
        log_folder = folder.with_name(f"{folder.name}.logs")
        log_folder.mkdir(exist_ok=True)
        start_index = len(list(log_folder.glob("*-0.txt")))
        self.command, self.folder = command, folder
        self.logs = [log_folder / f"{start_index:02d}-{process}.txt" for process in range(layout.processes)]
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(folder.with_name("xla")),
            "JAX_NUM_CPU_DEVICES": str(layout.devices),
        }
        arguments = [sys.executable, "-m", "symbert_jax", *command.arguments(folder), *layout.flags]
        if layout.processes > 1:
            address = f"127.0.0.1:{_free_port()}"
            arguments += [f"--coordinator={address}", f"--processes={layout.processes}", "--lost_after=10"]
        self.processes = []
        for process, log in enumerate(self.logs):
            process_flag = [f"--process={process}"] if layout.processes > 1 else []
            with log.open("w") as output:
                self.processes.append(
                    subprocess.Popen(
                        [*arguments, *process_flag],
                        cwd=ROOT,
                        env=environment,
                        start_new_session=True,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                    )
                )

    def __enter__(self) -> "StartedCommand":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind:
            self.close()

    def output(self, process: int = 0) -> str:
        """Returns the output of a process so far."""
        return self.logs[process].read_text(errors="replace")

    def last_line(self, process: int = 0) -> str:
        """Returns the last line of a process's output so far, shortened."""
        return (self.output(process).strip().splitlines() or [""])[-1][:160]

    def phase(self) -> str:
        """Returns which of PHASES the command is in."""
        return self.command.phase(self.folder, self.output())

    def running(self) -> list[int]:
        """Returns the indices of the processes that have not ended."""
        return [index for index, process in enumerate(self.processes) if process.poll() is None]

    def wait(self, seconds: float) -> None:
        """Returns when the time is over or when a process has ended."""
        self._wait_until(lambda: False, seconds)

    def wait_for_first_step(self) -> None:
        """Returns when the first step, as `Command.phase` defines it, is done or when a process has ended."""
        self._wait_until(lambda: self.phase() != BEFORE_STEPS)

    def wait_for_last_step(self) -> None:
        """Returns when the last step, as `Command.phase` defines it, is done or when a process has ended."""
        self._wait_until(lambda: self.phase() == AFTER_STEPS)

    def wait_for_save(self) -> None:
        """Returns when the command has saved something since the call, or when a process has ended."""
        saved = self.command.saved_progress(self.folder)
        self._wait_until(lambda: self.command.saved_progress(self.folder) > saved)

    def _wait_until(self, condition: Callable[[], bool], seconds: float = TIMEOUT) -> None:
        """Returns when the condition holds, a process has ended or the time is over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and len(self.running()) == len(self.processes) and not condition():
            time.sleep(0.005)

    def wait_for_end(self, seconds: float = TIMEOUT) -> list[int]:
        """Waits until all processes have ended or the time is over; returns the indices of those that still run."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.running():
            time.sleep(0.005)
        return self.running()

    def kill(self, number: signal.Signals, process: int) -> Kill | None:
        """Sends a signal to a process, or to its group if a terminal would. Returns None if the process has ended."""
        kill = Kill(number, self.phase(), process)
        if process not in self.running():
            return None
        if number in (signal.SIGINT, signal.SIGHUP):
            os.killpg(self.processes[process].pid, number)
        else:
            self.processes[process].send_signal(number)
        return kill

    def wait_and_check(self, kill: Kill | None) -> list[str]:
        """Waits until all processes have ended, and kills only those that hang.

        Returns descriptions of processes that hang or are left running, of tracebacks and of wrong exit codes.

        kill: the kill that was sent to one of the processes, if there was one.
        """
        seconds, must_end = TIMEOUT, True
        if kill and len(self.processes) > 1:
            # before the first step the others may still wait for the killed one to connect, which may take minutes
            must_end = kill.phase != BEFORE_STEPS
            seconds = SURVIVORS_TIMEOUT if must_end else 3
        hanging = self.wait_for_end(seconds)
        found = [f"{kill or 'no kill'}: {len(hanging)} processes do not end"] if hanging and must_end else []
        if left := self.close():
            found.append(f"{kill or 'no kill'}: {left} further processes were left running")
        for process in range(len(self.processes)):
            if process not in hanging:
                found += self._problems(process, kill)
        return found

    def close(self) -> int:
        """Kills all processes; returns how many of their child processes were still alive 5 s after them."""
        for process in self.processes:
            process.kill()
            process.wait()
        end = time.monotonic() + 5
        while (left := _living_processes({process.pid for process in self.processes})) and time.monotonic() < end:
            time.sleep(0.02)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(left)

    def _problems(self, process: int, kill: Kill | None) -> Iterator[str]:
        """Describes a traceback or a wrong exit code of a process that has ended."""
        output, code = self.output(process), self.processes[process].returncode
        where = f"{kill or 'no kill'}, process {process} of {len(self.processes)}"
        # an interrupt before `main` starts makes the interpreter print a traceback, which is no fault of the package
        if "Traceback" in output and ("in main\n" in output or "KeyboardInterrupt" not in output):
            yield f"{where}: a traceback, which ends in {self.last_line(process)!r}"
        must_save = (
            self.command.saves_at_signals and kill and kill.number != signal.SIGKILL and kill.phase != BEFORE_STEPS
        )
        allowed = {0}
        if kill and not must_save:
            if process != kill.process:
                return  # the other processes only have to end
            allowed = {0, -kill.number, 128 + kill.number}
        if code not in allowed:
            yield f"{where}: exit code {code}, the last line is {self.last_line(process)!r}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _living_processes(sessions: set[int]) -> list[int]:
    """Returns the ids of the processes that are alive in these sessions."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, session, *_ = stat.read_text().rpartition(")")[2].split()
            if state != "Z" and int(session) in sessions:
                found.append(int(stat.parent.name))
    return found
