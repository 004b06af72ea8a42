"""Kills real runs at random times, starts the same command again until it is done, and compares its files with those of
an uninterrupted run.

    .venv/bin/python -m bench.chaos --kills=100 --prepare=20 --finetune=20 --changes=6

This asks for 100 kills of pretrain, 20 of prepare, 20 of finetune, and 6 in the stage changes. The stages:

pretrain: with 1, 2 and 4 processes. Parameters and moments of every checkpoint that both runs have must be the same bit
  for bit, and metrics.jsonl must be the same except for speeds.
changes: pretrain that continues with another number of processes or another mesh after each kill. The same steps must
  have the same losses within 1e-3.
prepare: all files must be the same byte for byte, the manifest included.
finetune: results except times, predictions, files for the GLUE server and saved models must be the same.
disk: each command runs on a disk that is full or read-only, from its start or from a random moment on. It must succeed
  or end with one line of error, and continue once the disk works again. The number of runs is fixed. They mount file
  systems, and are left out if the user may not.

Prints a line for each run and Markdown tables. Exits with 1 if anything is lost or different, or if a process prints a
traceback, returns a wrong exit code, hangs or leaves processes running; the folder of such a run stays.
"""

import argparse
import itertools
import logging
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from bench.chaos.disks import DiskRun, full, may_mount, read_only, run_on_failing_disk
from bench.chaos.references import References
from bench.chaos.report import count_stage, print_disk_runs, print_stages
from bench.chaos.runs import Run
from bench.chaos.stages import Case, Stage
from bench.chaos.starts import ONE_PROCESS, Layout
from bench.record import record

STAGES = ("pretrain", "changes", "prepare", "finetune", "disk")


def main() -> int:
    """Runs the chosen stages and prints their tables; returns 1 if there are findings."""
    flags = parse_flags()
    restore_signals()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # this process reads checkpoints with jax
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns if an item is read without its checkpoint
    began, chosen = time.monotonic(), flags.only or STAGES
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"seed {flags.seed}, in {folder}", flush=True)
    references = References(folder)
    runs_by_stage = {
        name: run_stage(name, references, flags, began + 60 * flags.minutes)
        for name in STAGES
        if name in chosen and name != "disk"
    }
    disk_runs = run_on_failing_disks(references, flags.seed) if "disk" in chosen else []
    if runs_by_stage:
        print_stages(runs_by_stage)
    if disk_runs:
        print_disk_runs(disk_runs)
    all_runs = [run for runs in runs_by_stage.values() for run in runs] + [disk_run.run for disk_run in disk_runs]
    findings = sum(len(run.findings) for run in all_runs)
    counts_by_stage: dict[str, object] = {name: count_stage(runs) for name, runs in runs_by_stage.items()}
    if disk_runs:
        counts_by_stage["disk"] = len(disk_runs)
    minutes = round((time.monotonic() - began) / 60, 1)
    record("chaos", seed=flags.seed, minutes=minutes, **counts_by_stage, findings=findings)
    if findings:
        print(f"{findings} findings; their folders are in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


def parse_flags() -> argparse.Namespace:
    """Returns the flags of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100, help="kills in the stage pretrain")
    parser.add_argument("--changes", type=int, default=6, help="kills in the stage changes")
    parser.add_argument("--prepare", type=int, default=20, help="kills in the stage prepare")
    parser.add_argument("--finetune", type=int, default=20, help="kills in the stage finetune")
    parser.add_argument("--only", choices=STAGES, action="append", help="run only this stage; may be repeated")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="by default a random one")
    parser.add_argument("--minutes", type=float, default=math.inf, help="minutes after which no kills are planned")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time, except in changes and disk")
    return parser.parse_args()


def restore_signals() -> None:
    """Handles SIGINT and SIGHUP again if they are ignored, as under `nohup`: child processes would ignore them too."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def run_stage(name: str, references: References, flags: argparse.Namespace, deadline: float) -> list[Run]:
    """Makes the references of a stage, then its runs with kills; returns these runs."""
    kills = flags.kills if name == "pretrain" else getattr(flags, name)  # the other flags have the names of the stages
    stage = Stage(name, references.folder, flags.seed, kills, deadline)
    match name:
        case "pretrain":
            one, two, four = (
                Case(references.pretrain_command(layout), layout, max_kills_per_run)
                for layout, max_kills_per_run in ((ONE_PROCESS, 8), (Layout(processes=2), 4), (Layout(processes=4), 3))
            )
            stage.kill_in_turn([one, two, one, one, four, one], flags.jobs)
        case "changes":
            # every step is logged, so a repeated or missing step shows in the losses
            command = references.pretrain_command(name=name, log_every=1, compares_bits=False)
            stage.kill_between_layouts(command)
        case "prepare":
            commands = [references.prepare_command(kind) for kind in ("jsonl", "python-docs")]
            stage.kill_in_turn([Case(command, ONE_PROCESS, max_kills_per_run=3) for command in commands], flags.jobs)
        case "finetune":
            stage.kill_in_turn([Case(references.finetune_command(), ONE_PROCESS, max_kills_per_run=4)], flags.jobs)
    return stage.runs


def run_on_failing_disks(references: References, seed: int) -> list[DiskRun]:
    """Runs every command with every fault of a disk."""
    if not may_mount(references.folder):
        print("disk: not run, because this user may not mount")
        return []
    commands = (references.pretrain_command(), references.prepare_command("jsonl"), references.finetune_command())
    return [
        run_on_failing_disk(command, references.folder, seed, fault, before_start)
        for command, fault, before_start in itertools.product(commands, (full, read_only), (True, False))
    ]


if __name__ == "__main__":
    sys.exit(main())
