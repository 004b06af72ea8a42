"""Runs of commands that are killed at random times, until a number of kills is reached."""

import concurrent.futures
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.chaos.commands import Command
from bench.chaos.runs import Run
from bench.chaos.starts import ONE_PROCESS, SIGNALS, Kill, Layout, StartedCommand

# Fractions of the kills. The others come between the first and the last step.
SHARE_BEFORE_STEPS, SHARE_AFTER_STEPS = 0.3, 0.1
LAYOUTS = (  # each differs from the next in the number of processes or in the mesh
    ONE_PROCESS,
    Layout(processes=2),
    Layout(devices=4, flags=("--config.mesh.model=2",)),
    Layout(processes=4, flags=("--config.mesh.fsdp=True",)),
    Layout(devices=2, flags=("--config.mesh.fsdp=True",)),
    Layout(processes=2, devices=2, flags=("--config.mesh.model=2", "--config.mesh.fsdp=True")),
    Layout(processes=4),
)


class Case(NamedTuple):
    """A command to kill, the layout of its processes and the most kills of one run."""

    command: Command
    layout: Layout
    max_kills_per_run: int


class Stage:
    """Runs of commands below a folder, until there were `kills` kills or the deadline is over.

    Several threads share the object.

    deadline: by `time.monotonic()`; no kill is planned after it.
    """

    def __init__(self, name: str, folder: Path, seed: int, kills: int, deadline: float):
        self.name, self.folder, self.seed, self.kills, self.deadline = name, folder, seed, kills, deadline
        self.runs: list[Run] = []
        self._reserved = 0  # the number of kills that were sent or that a thread is about to send
        self._lock, self._indices = threading.Lock(), itertools.count()

    def kill_in_turn(self, cases: Sequence[Case], jobs: int) -> None:
        """Runs the cases in turn, `jobs` runs at a time, and kills each run at random times."""

        def work() -> None:
            while self._needs_kills():
                index = next(self._indices)
                case = cases[index % len(cases)]
                max_kills = random.Random(f"{self.seed} {self.name} {index}").randint(1, case.max_kills_per_run)
                self._run(index, case.command, itertools.repeat(case.layout), max_kills, kill_at_random)

        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            try:
                for job in [pool.submit(work) for _ in range(jobs)]:
                    job.result()
            finally:
                self.kills = 0  # after an error in one thread, the others need no further kills and stop

    def kill_between_layouts(self, command: Command) -> None:
        """Runs a command, which continues in the next of LAYOUTS after each kill."""
        first = random.Random(f"{self.seed} layouts").randrange(len(LAYOUTS))
        layouts = itertools.islice(itertools.cycle(LAYOUTS), first, None)
        while self._needs_kills():
            self._run(next(self._indices), command, layouts, self.kills, kill_after_save)

    def _run(
        self,
        index: int,
        command: Command,
        layouts: Iterator[Layout],
        max_kills: int,
        kill: Callable[[StartedCommand, random.Random], Kill | None],
    ) -> None:
        """Runs a command to its end with at most `max_kills` kills; each start takes the next of `layouts`."""
        name = f"{self.name}-{index}"
        run, rng = Run(command, self.folder / name), random.Random(f"{self.seed} {name}")
        run.folder.mkdir()
        is_finished = False
        while not is_finished:
            layout = next(layouts)
            if len(run.kills) < max_kills and self._reserve_kill():
                is_finished = run.start(layout, lambda started: kill(started, rng))
                if is_finished:
                    self._return_kill()
            else:
                is_finished = run.start(layout)
        run.compare()
        self.runs.append(run)
        kills = ", ".join(map(str, run.kills))
        run.report(f"{name}, {layout.processes} processes at its end, {len(run.kills)} kills ({kills})")

    def _needs_kills(self) -> bool:
        return self._reserved < self.kills and time.monotonic() < self.deadline

    def _reserve_kill(self) -> bool:
        """Returns whether this thread may try another kill."""
        with self._lock:
            is_needed = self._needs_kills()
            self._reserved += is_needed
        return is_needed

    def _return_kill(self) -> None:
        """Gives back a reserved kill that was not sent because the command had ended."""
        with self._lock:
            self._reserved -= 1


def kill_at_random(started: StartedCommand, rng: random.Random) -> Kill | None:
    """Kills a started command before, during or after its steps. Returns None if the process to kill had ended."""
    reference = started.command.reference
    if (chance := rng.random()) < SHARE_BEFORE_STEPS:
        started.wait(rng.uniform(0, reference.seconds_to_first_step))
    elif chance < SHARE_BEFORE_STEPS + SHARE_AFTER_STEPS:
        started.wait_for_last_step()
        started.wait(rng.uniform(0, 0.5))
    else:
        started.wait_for_first_step()
        # a run that saves at signals is killed within a third of the time, so that several kills fit into the run
        divisor = 3 if started.command.saves_at_signals else 1
        started.wait(rng.uniform(0, reference.seconds_after_first_step / divisor))
    return _send_random_signal(started, rng)


def kill_after_save(started: StartedCommand, rng: random.Random) -> Kill | None:
    """Kills a started command once it has saved something new: a layout that makes no progress tests nothing."""
    started.wait_for_save()
    started.wait(rng.uniform(0, started.command.reference.seconds_after_first_step / 10))
    return _send_random_signal(started, rng)


def _send_random_signal(started: StartedCommand, rng: random.Random) -> Kill | None:
    (number,) = rng.choices(list(SIGNALS), list(SIGNALS.values()))
    return started.kill(number, rng.randrange(len(started.processes)))
