"""One run of a command: starts in one folder until the command is done, and the faults that were found."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

from bench.chaos.commands import Command
from bench.chaos.starts import Kill, Layout, StartedCommand

FINDINGS = ("lost", "different", "unexpected")  # the fields of `Run` that describe faults


@dataclasses.dataclass
class Run:
    """One run of a command, with its kills and the faults that were found."""

    command: Command
    folder: Path
    kills: list[Kill] = dataclasses.field(default_factory=list)
    lost: list[str] = dataclasses.field(default_factory=list)  # saved progress that the next start did not find
    different: list[str] = dataclasses.field(default_factory=list)  # files that differ from those of the reference
    # tracebacks, wrong exit codes, and processes that hang or are left running
    unexpected: list[str] = dataclasses.field(default_factory=list)

    @property
    def findings(self) -> list[str]:
        """All faults of the run."""
        return self.lost + self.different + self.unexpected

    def start(self, layout: Layout, send_kill: Callable[[StartedCommand], Kill | None] = lambda started: None) -> bool:
        """Starts the command once and records its kill and its faults; returns whether it ended without a kill.

        send_kill: kills the started command at some time; returns the kill, or None if it sent none, as by default.
        """
        saved = self.command.saved_progress(self.folder)
        with StartedCommand(self.command, self.folder, layout) as started:
            kill = send_kill(started)
            self.unexpected += started.wait_and_check(kill)
        if problem := self.command.describe_lost_progress(saved, self.folder, started.output()):
            self.lost.append(problem)
        if kill:
            self.kills.append(kill)
        return not kill

    def compare(self) -> None:
        """Records how the files of the finished run differ from those of the reference."""
        try:
            self.different += self.command.find_differences(self.folder)
        except Exception as error:  # whatever a missing or damaged file leads to
            self.different.append(f"it cannot be compared: {type(error).__name__}: {error}")

    def report(self, title: str) -> None:
        """Prints the outcome and removes the files of the run if there are no findings."""
        print(f"{title}: {f'see {self.folder}*' if self.findings else 'nothing lost, nothing different'}", flush=True)
        for finding in self.findings:
            print(f"  FOUND {finding}", flush=True)
        if not self.findings:
            shutil.rmtree(self.folder)
            shutil.rmtree(self.folder.with_name(f"{self.folder.name}.logs"))
