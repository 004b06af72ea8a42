"""Counts of kills and findings, and tables of them in Markdown."""

from collections.abc import Mapping, Sequence

from bench.chaos.commands import PHASES
from bench.chaos.disks import DiskRun
from bench.chaos.runs import FINDINGS, Run
from bench.chaos.starts import SIGNALS


def count_stage(runs: Sequence[Run]) -> dict[str, int]:
    """Returns the numbers of runs, kills and findings of a stage, by column of the table."""
    kills = [kill for run in runs for kill in run.kills]
    counts = {"runs": len(runs), "kills": len(kills)}
    counts |= {number.name: sum(kill.number == number for kill in kills) for number in SIGNALS}
    counts |= {phase: sum(kill.phase == phase for kill in kills) for phase in PHASES}
    return counts | _count_findings(runs)


def print_stages(runs_by_stage: Mapping[str, Sequence[Run]]) -> None:
    """Prints a table with a row for each stage and the columns of `count_stage`."""
    rows = [[name, *count_stage(runs).values()] for name, runs in runs_by_stage.items()]
    _print_table(["command", *count_stage([])], rows)  # the keys are the same without runs


def print_disk_runs(disk_runs: Sequence[DiskRun]) -> None:
    """Prints a table with a row for each of the runs."""
    rows = [
        [run.command.arguments(run.folder)[0], fault, code, *_count_findings([run]).values()]
        for fault, code, run in disk_runs
    ]
    _print_table(["command", "disk", "exit code", *FINDINGS], rows)


def _count_findings(runs: Sequence[Run]) -> dict[str, int]:
    return {kind: sum(len(getattr(run, kind)) for run in runs) for kind in FINDINGS}


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")
