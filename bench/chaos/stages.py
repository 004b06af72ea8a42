"""Kills real runs at random moments, starts the same command again until it is done, and compares what it leaves with
what an uninterrupted run leaves.

    .venv/bin/python -m bench.chaos --kills=100 --prepare=20 --finetune=20 --changes=6

pretrain: with 1, 2 and 4 processes. Parameters and moments of every checkpoint must be the same bit for bit,
  metrics.jsonl the same but for the speeds.
changes: pretrain that goes on with another number of processes or another mesh after each kill. The same steps must
  have the same losses within 1e-3.
prepare: all files must be the same byte for byte, but for the time in the manifest.
finetune: so must results, predictions, files for the GLUE server and saved models.
disk: a full disk and a read-only folder, before the start of each command and at a random moment. It must end with one
  line of error, and go on once the disk is well. This mounts file systems: without root it is left out.

SIGKILL and SIGTERM go to one process; SIGINT and SIGHUP to its process group, as a terminal sends them. Prints a line
for each run and a Markdown table. Exits with 1 if anything is lost or different, or if a process said, returned or left
running what it should not; the folder of such a run stays.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import math
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.record import record

ROOT = Path(__file__).parents[2]
STAGES = ("pretrain", "changes", "prepare", "finetune", "disk")
SIGNALS = {signal.SIGKILL: 6, signal.SIGTERM: 2, signal.SIGINT: 1, signal.SIGHUP: 1}  # with their weights
MOMENTS = BEFORE, BETWEEN, AFTER = "before the first step", "in between", "after the last step"
EARLY, LATE = 0.3, 0.1  # shares of the kills at any moment since the start, and after the last step
PATIENCE = 400.0  # seconds after which a process hangs
SURVIVAL = 60.0  # seconds that the other processes of a run may live when one was killed
TOLERANCE = 1e-3  # of losses on another mesh

Arrays = dict[str, np.ndarray]


class Layout(NamedTuple):
    """The processes of a run and its mesh."""

    processes: int = 1
    devices: int = 1  # CPU devices of each process
    flags: tuple[str, ...] = ()


ALONE = Layout()
LAYOUTS = (  # each differs from the next in the number of processes or in the mesh
    ALONE,
    Layout(2, 1),
    Layout(1, 4, ("--config.mesh.model=2",)),
    Layout(4, 1, ("--config.mesh.fsdp=True",)),
    Layout(1, 2, ("--config.mesh.fsdp=True",)),
    Layout(2, 2, ("--config.mesh.model=2", "--config.mesh.fsdp=True")),
    Layout(4, 1),
)


# Commands: what they are given, how far they have come, and what must be the same.


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of the package. All that a run writes lies in one folder."""

    name: str
    reference: Path = Path()  # the folder of the uninterrupted run
    saves_at_signals = False  # whether SIGTERM, SIGINT and SIGHUP end it with exit code 0 after its first step

    def arguments(self, folder: Path) -> list[str]:
        """What follows `python -m symbert_jax`."""
        raise NotImplementedError

    def moment(self, folder: Path, said: str) -> str:
        """Which of MOMENTS it is for a process that has printed `said`."""
        raise NotImplementedError

    def saved(self, folder: Path) -> object:
        """What the next start must find, looked at while no process runs."""
        raise NotImplementedError

    def lost(self, saved: object, folder: Path, said: str) -> str:
        """Describes what a start that has printed `said` lost of what was `saved` before it; empty if nothing."""
        raise NotImplementedError

    def differences(self, folder: Path) -> list[str]:
        """Describes how the files of a finished run differ from those of the reference."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Pretrain(Command):
    """A small model with many checkpoints."""

    corpus: Path = Path()
    steps: int = 200
    log_every: int = 3  # neither checkpoints nor validations fall on its multiples
    keep: str = "keep_latest=2"
    exact: bool = True  # whether results are compared bit for bit, or only losses within TOLERANCE
    saves_at_signals = True

    def arguments(self, folder: Path) -> list[str]:
        changes = {
            "data.dir": self.corpus,
            "data.batch_size": 16,
            "model.attention": "pairwise",
            "model.layers": 1,
            "optim.warmup_steps": 5,
            "train.steps": self.steps,
            "train.log_every": self.log_every,
            "train.validate_every": 5,
            "train.validate_batches": 1,
            "train.checkpoint_every": 10,
        }
        config = ["--config=configs/tiny.py", *fields(changes), f"--config.train.{self.keep}"]
        return ["pretrain", f"--workdir={folder / 'run'}", *config]

    def moment(self, folder: Path, said: str) -> str:
        if f"\nstep {self.steps}/" in said or "nothing to do" in said:
            return AFTER
        return BETWEEN if "\nstep " in said else BEFORE

    def saved(self, folder: Path) -> int:
        return max(steps(folder / "run"), default=0)

    def lost(self, saved: object, folder: Path, said: str) -> str:
        found = re.search(r"(?:from|is at) step ([\d,]+)", said)
        start = int(found[1].replace(",", "")) if found else saved
        return "" if start == saved else f"it went on from step {start}, although step {saved} was saved"

    def differences(self, folder: Path) -> list[str]:
        mine, wanted = folder / "run", self.reference / "run"
        names = [sorted(path.name for path in workdir.iterdir()) for workdir in (mine, wanted)]
        found = [] if names[0] == names[1] else [f"the workdir holds {names[0]}, not {names[1]}"]
        return [*found, *self._differing_metrics(mine, wanted), *self._differing_checkpoints(mine, wanted)]

    def _differing_metrics(self, mine: Path, wanted: Path) -> Iterator[str]:
        try:
            lines = [metrics(workdir) for workdir in (mine, wanted)]
        except ValueError as error:
            yield f"metrics.jsonl is damaged: {error}"
            return
        keys = [[(line["step"], *sorted(line.keys() - {"step"})) for line in run] for run in lines]
        if keys[0] != keys[1]:
            once = [collections.Counter(run) for run in keys]
            missing, doubled = [str(list((a - b).elements())[:3]) for a, b in (once[::-1], once)]
            yield f"metrics.jsonl: missing {missing}, more than in the other run {doubled}"
            return
        far = []
        for line, other in zip(*lines, strict=True):
            for name, value in other.items():
                close = math.isclose(line[name], value, abs_tol=TOLERANCE) or not name.endswith("/loss")
                if not (line[name] == value if self.exact else close):
                    far.append(f"{name} of step {line['step']} is {line[name]}, not {value}")
        if far:
            yield f"metrics.jsonl: {len(far)} values differ, the first: {far[0]}"

    def _differing_checkpoints(self, mine: Path, wanted: Path) -> Iterator[str]:
        import symbert_jax

        losses = {line["step"]: line["validation/loss"] for line in metrics(wanted) if "validation/loss" in line}
        best = min(steps(wanted), key=lambda step: (losses[step], -step))
        for step in ({best, self.steps} if self.exact else {self.steps}) - steps(mine):
            yield f"checkpoint {step} is not there, only {sorted(steps(mine))}"
        others = (path for path in (mine / "checkpoints").iterdir() if not path.name.isdigit())
        for path in others:
            if not (wanted / "checkpoints" / path.name).exists() and (path.is_file() or any(path.iterdir())):
                yield f"left behind: {path.name} in checkpoints"
        for step in sorted(steps(mine)):
            try:
                symbert_jax.load(mine, step)
                found = checkpoint(mine, step)
            except Exception as error:  # Orbax has many kinds
                yield f"checkpoint {step} cannot be read: {' '.join(str(error).split())[:200]}"
                continue
            other = checkpoint(wanted, step) if self.exact and step in steps(wanted) else found
            if different := differing_arrays(found, other):
                yield f"checkpoint {step}: {len(different)} arrays differ, the first: {different[0]}"


@dataclasses.dataclass(frozen=True)
class Prepare(Command):
    """A corpus of several thousand documents."""

    source: str = ""

    def arguments(self, folder: Path) -> list[str]:
        config = fields({"data.dir": folder / "corpus", "data.sources": self.source})
        return ["prepare", "--config=configs/tiny.py", *config]

    def moment(self, folder: Path, said: str) -> str:
        """The first step is the folder in which the corpus grows, the last one that it gets its name."""
        if (folder / "corpus" / "manifest.json").exists():
            return AFTER
        return BETWEEN if (folder / "corpus.incomplete").exists() else BEFORE

    def saved(self, folder: Path) -> bool:
        return (folder / "corpus" / "manifest.json").exists()

    def lost(self, saved: object, folder: Path, said: str) -> str:
        return "the finished corpus is gone" if saved and not self.saved(folder) else ""

    def differences(self, folder: Path) -> list[str]:
        found = differing_files(folder, self.reference, ignored=("manifest.json",))
        files = (where / "corpus" / "manifest.json" for where in (folder, self.reference))
        timed = {"seconds": 0, "sha256": ""}  # the latter is of the manifest itself, with its seconds
        mine, wanted = (json.loads(file.read_text()) | timed for file in files)
        names = mine.keys() | wanted.keys()
        return found + [f"manifest.json: {name} differs" for name in names if mine.get(name) != wanted.get(name)]


@dataclasses.dataclass(frozen=True)
class Finetune(Command):
    """Tiny GLUE: two seeds of three tasks, of which RTE starts from the model of MNLI."""

    checkpoint: Path = Path()
    glue: Path = Path()

    def arguments(self, folder: Path) -> list[str]:
        changes = {
            "checkpoint": self.checkpoint,
            "glue.source": f"tsv:{self.glue}",
            "tasks": "('cola','mnli','rte')",
            "seeds": 2,
            "epochs": 4,
            "learning_rates": 3e-3,
            "from_mnli": True,
            "save_models": True,
            "predictions": True,
        }
        return ["finetune", "--config=configs/glue.py", f"--workdir={folder / 'run'}", *fields(changes)]

    def moment(self, folder: Path, said: str) -> str:
        """The first step is the end of a group of trials, the last one that of all trials."""
        if re.search(r"\((\d+)/\1 trials|Wrote ", said):  # of those that this start has to train
            return AFTER
        return BETWEEN if " trials, " in said else BEFORE

    def saved(self, folder: Path) -> set[str]:
        """The whole lines of trials.jsonl."""
        file = folder / "run" / "trials.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        return {line for line in lines if line.endswith("\n")}

    def lost(self, saved: object, folder: Path, said: str) -> str:
        missing = len(saved - self.saved(folder))
        return f"{missing} lines of trials.jsonl are gone" if missing else ""

    def differences(self, folder: Path) -> list[str]:
        mine, wanted = folder / "run", self.reference / "run"
        files = (workdir / "results.json" for workdir in (mine, wanted))
        one, other = (re.sub(r'"seconds": [\d.e-]+', "", file.read_text()) for file in files)
        found = [] if one == other else ["results.json differs"]
        # times, and what is compared by its arrays; trials.jsonl is what results.json was made of
        found += differing_files(mine, wanted, ("results.json", "results.md", "trials.jsonl", ".png", "params", ".npz"))
        for path in sorted([*wanted.glob("predictions/*.npz"), *wanted.glob("models/*/*/params")]):
            name = path.relative_to(wanted)
            read = orbax_arrays if path.is_dir() else np.load
            if not (mine / name).exists():
                found.append(f"there is no {name}")
            elif different := differing_arrays(dict(read(mine / name)), dict(read(path))):
                found.append(f"{name}: {len(different)} arrays differ, the first: {different[0]}")
        return found


def fields(changes: dict[str, object]) -> list[str]:
    return [f"--config.{field}={value}" for field, value in changes.items()]


def steps(workdir: Path) -> set[int]:
    """The steps of the checkpoints that have their final name."""
    return {int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()}


def metrics(workdir: Path) -> list[dict]:
    """The lines of metrics.jsonl without speeds; raises `ValueError` where one is no JSON."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if not name.startswith("speed/")} for line in lines]


def checkpoint(workdir: Path, step: int) -> Arrays:
    """Every parameter and moment."""
    items = {item: orbax_arrays(workdir / "checkpoints" / str(step) / item) for item in ("params", "optimizer")}
    return {f"{item}{name}": leaf for item, found in items.items() for name, leaf in found.items()}


def orbax_arrays(folder: Path) -> Arrays:
    """The arrays of a tree that Orbax wrote, by their path, whatever mesh they were on."""
    import jax
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        shapes = checkpointer.metadata(folder).item_metadata.tree
        tree = checkpointer.restore(folder, jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), shapes))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}


def differing_arrays(mine: Arrays, wanted: Arrays) -> list[str]:
    """The names under which two sets of arrays do not hold the same bits."""
    bits = [{name: (leaf.shape, leaf.dtype, leaf.tobytes()) for name, leaf in run.items()} for run in (mine, wanted)]
    return [name for name in sorted(mine.keys() | wanted.keys()) if bits[0].get(name) != bits[1].get(name)]


def differing_files(mine: Path, wanted: Path, ignored: tuple[str, ...]) -> list[str]:
    """Describes the paths below two folders that one of them lacks, and the files whose bytes differ.

    ignored: ends of the names of files and folders that are left out.
    """
    found = []
    for folder in (mine, wanted):
        paths = {path.relative_to(folder): path for path in folder.rglob("*")}
        kept = {name: path for name, path in paths.items() if not any(part.endswith(ignored) for part in name.parts)}
        found.append({name: digest(path) if path.is_file() else b"" for name, path in kept.items()})
    both, one = found[0].keys() & found[1].keys(), found[0].keys() ^ found[1].keys()
    alone = [f"{name} is in {'this' if name in found[0] else 'the other'} run alone" for name in one]
    return sorted(alone + [f"{name} differs" for name in both if found[0][name] != found[1][name]])


def digest(file: Path) -> bytes:
    return hashlib.sha256(file.read_bytes()).digest()


# Starts of a command, and their end.


class Kill(NamedTuple):
    number: signal.Signals
    moment: str
    process: int

    def __str__(self) -> str:
        return f"{self.number.name} {self.moment}"


class Start:
    """One start of a command: one process or several, each a session of its own, with its output in a file."""

    def __init__(self, command: Command, folder: Path, layout: Layout, environment: dict[str, str]):
        logs = folder.with_name(f"{folder.name}.logs")
        logs.mkdir(exist_ok=True)
        number = len(list(logs.glob("*-0.txt")))
        self.command, self.folder, self.began = command, folder, time.monotonic()
        self.logs = [logs / f"{number:02d}-{process}.txt" for process in range(layout.processes)]
        environment = os.environ | environment | {"JAX_NUM_CPU_DEVICES": str(layout.devices)}
        words = [sys.executable, "-m", "symbert_jax", *command.arguments(folder), *layout.flags]
        if layout.processes > 1:
            words += [f"--coordinator=127.0.0.1:{port()}", f"--processes={layout.processes}", "--lost_after=10"]
        self.processes = []
        for process, log in enumerate(self.logs):
            own = [f"--process={process}"] if layout.processes > 1 else []
            with log.open("w") as output:
                self.processes.append(
                    subprocess.Popen(
                        [*words, *own],
                        **{"cwd": ROOT, "env": environment, "start_new_session": True},
                        **{"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT},
                    )
                )

    def said(self, process: int = 0) -> str:
        """The output of a process so far."""
        return self.logs[process].read_text(errors="replace")

    def last_line(self, process: int = 0) -> str:
        return (self.said(process).strip().splitlines() or [""])[-1][:160]

    def moment(self) -> str:
        return self.command.moment(self.folder, self.said())

    def running(self) -> list[int]:
        return [number for number, process in enumerate(self.processes) if process.poll() is None]

    def wait(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Returns when `until` is true, when the time is over or when a process has ended."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and len(self.running()) == len(self.processes) and not until():
            time.sleep(0.005)

    def finish(self, seconds: float) -> list[int]:
        """Waits until all processes have ended; returns those that have not."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.running():
            time.sleep(0.005)
        return self.running()

    def kill(self, number: signal.Signals, process: int) -> Kill | None:
        """Sends a signal to a process: to its group where a terminal does. None if it has ended before."""
        kill = Kill(number, self.moment(), process)
        if process not in self.running():
            return None
        if number in (signal.SIGINT, signal.SIGHUP):
            os.killpg(self.processes[process].pid, number)
        else:
            self.processes[process].send_signal(number)
        return kill

    def end(self, kill: Kill | None) -> list[str]:
        """Waits until all is over; describes what the processes did that they should not have.

        kill: the one that there was.
        """
        seconds = PATIENCE
        if kill and len(self.processes) > 1:  # those that have not met yet wait long for each other, as they should
            seconds = SURVIVAL if kill.moment != BEFORE else 3
        hanging = self.finish(seconds)
        found = [f"{kill or 'no kill'}: {len(hanging)} processes do not end"] if hanging and seconds != 3 else []
        if left := self.close():
            found.append(f"{kill or 'no kill'}: {left} further processes were left running")
        for process in range(len(self.processes)):
            if process not in hanging:
                found += self._unexpected(process, kill)
        return found

    def close(self) -> int:
        """Ends what still runs; returns how many of them outlived the processes that started them by 5 s."""
        for process in self.processes:
            process.kill()
            process.wait()
        end = time.monotonic() + 5
        while (left := members({process.pid for process in self.processes})) and time.monotonic() < end:
            time.sleep(0.02)
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        return len(left)

    def _unexpected(self, process: int, kill: Kill | None) -> Iterator[str]:
        said, code = self.said(process), self.processes[process].returncode
        where = f"{kill or 'no kill'}, process {process} of {len(self.processes)}"
        # before `main` an interrupt meets the interpreter, which has its own way to tell
        if "Traceback" in said and ("in main\n" in said or "KeyboardInterrupt" not in said):
            yield f"{where}: a traceback, which ends in {self.last_line(process)!r}"
        allowed = {0}
        if kill and not (self.command.saves_at_signals and kill.number != signal.SIGKILL and kill.moment != BEFORE):
            if process != kill.process:
                return  # it counts that the others end
            allowed = {0, -kill.number, 128 + kill.number}
        if code not in allowed:
            yield f"{where}: exit code {code}, the last line is {self.last_line(process)!r}"


def port() -> int:
    """A free one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def members(sessions: set[int]) -> list[int]:
    """The living processes of sessions."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, session, *_ = stat.read_text().rpartition(")")[2].split()
            if state != "Z" and int(session) in sessions:
                found.append(int(stat.parent.name))
    return found


# Runs, and what they are made of.


@dataclasses.dataclass
class Run:
    """What happened to one run."""

    kills: list[Kill] = dataclasses.field(default_factory=list)
    lost: list[str] = dataclasses.field(default_factory=list)
    different: list[str] = dataclasses.field(default_factory=list)
    unexpected: list[str] = dataclasses.field(default_factory=list)  # output, exit codes, processes left running

    @property
    def findings(self) -> list[str]:
        return self.lost + self.different + self.unexpected


class Chaos:
    """Runs below one folder, which share a compilation cache."""

    def __init__(self, folder: Path, seed: object, corpus: Path | None = None):
        """corpus: one of configs/tiny.py; by default it is made."""
        self.folder, self.seed, self.given = folder, seed, corpus
        self.environment = {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(folder / "xla")}
        self.seconds: dict[
            Path, tuple[float, float]
        ] = {}  # of a reference: to its first step, and from there to its end

    @functools.cached_property
    def documents(self) -> Path:
        """JSON lines with parts of Python's help, several thousand documents."""
        from pydoc_data.topics import topics

        rng, path = random.Random(0), self.folder / "documents.jsonl"
        paragraphs = [part for name in sorted(topics) for part in topics[name].split("\n\n") if len(part) > 40]
        texts = ("\n\n".join(rng.sample(paragraphs, 3)) for _ in range(8000))
        path.write_text("".join(f"{json.dumps({'text': text})}\n" for text in texts))
        return path

    @functools.cached_property
    def corpus(self) -> Path:
        return self.given or self.prepare("jsonl").reference / "corpus"

    def uninterrupted(self, command: Command, layout: Layout = ALONE) -> Path:
        """The folder of a run that nothing disturbs; it is run once."""
        folder = self.folder / f"{command.name}-whole"
        if folder.exists():
            return folder
        folder.mkdir()
        start = Start(command, folder, layout, self.environment)
        start.wait(PATIENCE, lambda: start.moment() != BEFORE)
        first = time.monotonic()
        if problems := start.end(None):
            raise RuntimeError(f"{command.name} without a kill: {problems}; see {start.logs[0]}")
        self.seconds[folder] = (first - start.began, time.monotonic() - first)
        return folder

    def prepare(self, kind: str) -> Prepare:
        """kind: of the source, `jsonl` or `python-docs`, which is read by further processes."""
        source = f"jsonl:{self.documents}" if kind == "jsonl" else "python-docs:stdlib"
        command = Prepare(f"prepare-{kind}", source=source)
        return dataclasses.replace(command, reference=self.uninterrupted(command))

    def pretrain(self, layout: Layout = ALONE, **changes: object) -> Pretrain:
        """The reference keeps every checkpoint."""
        command = Pretrain(f"pretrain-{layout.processes}", corpus=self.corpus, **changes)
        whole = dataclasses.replace(command, keep="keep_every=10")
        return dataclasses.replace(command, reference=self.uninterrupted(whole, layout))

    def pretrain_elsewhere(self) -> Pretrain:
        """Logs every step, so that each loss shows which rows it is of."""
        command = Pretrain("changes", corpus=self.corpus, log_every=1, exact=False)
        return dataclasses.replace(command, reference=self.uninterrupted(command))

    def finetune(self) -> Finetune:
        glue = self.folder / "glue"
        if not glue.exists():
            write_glue(glue, (self.corpus / "vocab.txt").read_text().split())
        command = Finetune("finetune", checkpoint=self.pretrain().reference / "run", glue=glue)
        self.uninterrupted(dataclasses.replace(command, name="finetune-first"))  # compiles, which takes the longest
        return dataclasses.replace(command, reference=self.uninterrupted(command))

    def attempt(
        self, command: Command, layout: Layout, folder: Path, run: Run, strike: Callable[[Start], Kill | None]
    ) -> bool:
        """Starts a command once and notes in `run` what happens; returns whether it came to its end.

        strike: kills the start at a moment of its choice.
        """
        saved = command.saved(folder)
        start = Start(command, folder, layout, self.environment)
        try:
            kill = strike(start)
        except BaseException:
            start.close()
            raise
        run.unexpected += start.end(kill)
        if problem := command.lost(saved, folder, start.said()):
            run.lost.append(problem)
        if kill:
            run.kills.append(kill)
        return not kill

    def strike(self, start: Start, rng: random.Random) -> Kill | None:
        """Kills at a random moment."""
        command, (first, rest) = start.command, self.seconds[start.command.reference]
        if isinstance(command, Pretrain) and not command.exact:  # a change counts once something new was saved
            saved = command.saved(start.folder)
            start.wait(PATIENCE, lambda: command.saved(start.folder) > saved)
            start.wait(rng.uniform(0, rest / 10))
        elif (chance := rng.random()) < EARLY:
            start.wait(rng.uniform(0, first))
        elif chance < EARLY + LATE:
            start.wait(PATIENCE, lambda: start.moment() == AFTER)
            start.wait(rng.uniform(0, 0.5))
        else:
            start.wait(PATIENCE, lambda: start.moment() != BEFORE)
            start.wait(rng.uniform(0, rest / 3 if command.saves_at_signals else rest))
        (number,) = rng.choices(list(SIGNALS), list(SIGNALS.values()))
        return start.kill(number, rng.randrange(len(start.processes)))

    def run(self, stage: "Stage", name: str, command: Command, layouts: Iterator[Layout], most: int) -> None:
        """A run with at most so many kills, after each of which it has the next of `layouts`."""
        run, rng, folder, finished = Run(), random.Random(f"{self.seed} {name}"), self.folder / name, False
        folder.mkdir()
        while not finished:
            layout = next(layouts)
            allowed = len(run.kills) < most and stage.reserve()
            finished = self.attempt(
                command,
                layout,
                folder,
                run,
                lambda start: self.strike(start, rng) if allowed else None,  # noqa: B023
            )
            if allowed and finished:
                stage.give_back()
        run.different += compare(command, folder)
        stage.runs.append(run)
        kills = ", ".join(map(str, run.kills))
        report(f"{name}, {layout.processes} processes at its end, {len(run.kills)} kills ({kills})", run, folder)

    def stage(self, name: str, commands: Sequence[tuple[Command, Layout, int]], wanted: int, jobs: int) -> "Stage":
        """Runs of the commands in turn, `jobs` at a time, until so many kills are done.

        commands: each with its processes and the most kills of one run.
        """
        stage = Stage(name, wanted)

        def work() -> None:
            while stage.reserve():
                stage.give_back()
                number = next(stage.numbers)
                command, layout, most = commands[number % len(commands)]
                most = random.Random(f"{self.seed} {name} {number}").randint(1, most)
                self.run(stage, f"{name}-{number}", command, itertools.repeat(layout), most)

        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            try:
                for job in [pool.submit(work) for _ in range(jobs)]:
                    job.result()
            finally:
                stage.wanted = 0
        return stage

    def changes(self, wanted: int) -> "Stage":
        """Runs that go on in another layout after each kill."""
        stage, command = Stage("changes", wanted), self.pretrain_elsewhere()
        first = random.Random(f"{self.seed} layouts").randrange(len(LAYOUTS))
        layouts = itertools.islice(itertools.cycle(LAYOUTS), first, None)
        while stage.reserve():
            stage.give_back()
            self.run(stage, f"changes-{next(stage.numbers)}", command, layouts, wanted)
        return stage

    def disk(
        self, command: Command, fault: Callable[[Path], contextlib.AbstractContextManager], early: bool
    ) -> tuple[int, Run]:
        """A run that a fault of its disk ends, before its start or at a random moment, and that goes on afterwards.

        Returns its exit code, and what else happened.
        """
        name = f"disk-{command.name}-{fault.__name__}-{'before' if early else 'during'}"
        run, rng, folder = Run(), random.Random(f"{self.seed} {name}"), self.folder / name
        with mounted(folder), contextlib.ExitStack() as stack:
            if early:
                stack.enter_context(fault(folder))
            start = Start(command, folder, ALONE, self.environment)
            if not early:
                start.wait(PATIENCE, lambda: start.moment() != BEFORE)
                start.wait(rng.uniform(0, self.seconds[command.reference][1] / 2))
                stack.enter_context(fault(folder))
            if start.finish(PATIENCE):
                run.unexpected.append("it does not end")
            if left := start.close():
                run.unexpected.append(f"{left} further processes were left running")
            stack.close()
            said, code = start.said(), start.processes[0].returncode
            errors = [line for line in said.splitlines() if line.startswith("error: ")]
            if "Traceback" in said or (code and (code not in (1, 2) or len(errors) != 1)):
                traceback = "a traceback, " if "Traceback" in said else ""
                run.unexpected.append(f"{traceback}exit code {code}, the last line is {start.last_line()!r}")
            self.attempt(command, ALONE, folder, run, lambda start: None)
            run.different += compare(command, folder)
            told = errors[0][:100] if errors else "no error"
            report(f"{name}, exit code {code}, {told!r}", run, folder)
            if run.findings:
                shutil.copytree(folder, folder.with_name(f"{name}.copy"))
        return code, run


class Stage:
    """How many kills are wanted and done; several threads share it."""

    end = math.inf  # of all stages, by time.monotonic()

    def __init__(self, name: str, wanted: int):
        self.name, self.wanted, self.reserved, self.numbers = name, wanted, 0, itertools.count()
        self.runs: list[Run] = []
        self.lock = threading.Lock()

    def reserve(self) -> bool:
        """Whether another kill is wanted, which then is this thread's to do or to give back."""
        with self.lock:
            wanted = self.reserved < self.wanted and time.monotonic() < Stage.end
            self.reserved += wanted
        return wanted

    def give_back(self) -> None:
        with self.lock:
            self.reserved -= 1

    def counts(self) -> dict[str, int]:
        """The columns of the table."""
        kills = [kill for run in self.runs for kill in run.kills]
        found = {"runs": len(self.runs), "kills": len(kills)}
        found |= {number.name: sum(kill.number == number for kill in kills) for number in SIGNALS}
        found |= {moment: sum(kill.moment == moment for kill in kills) for moment in MOMENTS}
        return found | {kind: sum(len(getattr(run, kind)) for run in self.runs) for kind in FINDINGS}


FINDINGS = ("lost", "different", "unexpected")


def compare(command: Command, folder: Path) -> list[str]:
    try:
        return command.differences(folder)
    except Exception as error:  # whatever a missing or damaged file leads to
        return [f"it cannot be compared: {type(error).__name__}: {error}"]


def report(line: str, run: Run, folder: Path) -> None:
    """Prints what became of a run, whose files go if all is well."""
    print(f"{line}: {f'see {folder}*' if run.findings else 'nothing lost, nothing different'}", flush=True)
    for finding in run.findings:
        print(f"  FOUND {finding}", flush=True)
    if not run.findings:
        shutil.rmtree(folder, ignore_errors=True)  # which may be a mount
        shutil.rmtree(folder.with_name(f"{folder.name}.logs"))


def write_glue(folder: Path, vocabulary: Sequence[str]) -> None:
    """CoLA, MNLI and RTE with few examples, of words that are whole in a vocabulary, in two lengths."""
    rng = np.random.default_rng(0)
    words = np.array([word for word in vocabulary if word.isalpha() and len(word) > 2])

    def write(task: str, file: str, header: str, count: int, texts: int, classes: Sequence[str] = ()) -> None:
        """Which third or half of the words most of a text is from tells its class."""
        lines = []
        for number in range(count):
            label = int(rng.integers(len(classes) or 3))
            likely = np.array_split(words, len(classes) or 3)[label]
            sentences = [" ".join(rng.choice(likely, rng.choice((5, 12)))) for _ in range(texts)]
            fields = [str(number), *sentences, *classes[label : label + 1]]
            lines.append("\t".join(fields if header else [fields[0], fields[-1], "", *sentences]))
        (folder / task).mkdir(parents=True, exist_ok=True)
        text = "".join(f"{line}\n" for line in [*filter(None, [header]), *lines])
        (folder / task / f"{file}.tsv").write_text(text)

    pair = "index\tsentence1\tsentence2"
    for part, count in (("train", 96), ("dev", 31)):
        write("CoLA", part, "", count, 1, ("0", "1"))
        write("RTE", part, f"{pair}\tlabel", count, 2, ("entailment", "not_entailment"))
        for file in ("dev_matched", "dev_mismatched") if part == "dev" else (part,):
            write("MNLI", file, f"{pair}\tgold_label", count, 2, ("entailment", "neutral", "contradiction"))
    write("CoLA", "test", "index\tsentence", 9, 1)
    for task, file in (("RTE", "test"), ("MNLI", "test_matched"), ("MNLI", "test_mismatched")):
        write(task, file, pair, 9, 2)


# Faults of a disk.


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """A file system of 64 MB in memory, on a folder that is made."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@contextlib.contextmanager
def full(folder: Path) -> Iterator[None]:
    """A file takes all space that there is, and all that becomes free."""
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
    """The folder, bound over itself: a file system in which files are open for writing cannot be made so itself."""
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def may_mount(folder: Path) -> bool:
    try:
        with mounted(folder / "probe"), read_only(folder / "probe"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="of pretrain")
    parser.add_argument("--prepare", type=int, default=20, help="kills of prepare")
    parser.add_argument("--finetune", type=int, default=20, help="kills of finetune")
    parser.add_argument("--changes", type=int, default=6, help="kills of pretrain, each followed by another mesh")
    parser.add_argument("--only", choices=STAGES, action="append", help="a stage; may be repeated")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="another each time by default")
    parser.add_argument("--minutes", type=float, default=math.inf, help="after these no further kill is begun")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time")
    flags = parser.parse_args()
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if (
            signal.getsignal(number) is signal.SIG_IGN
        ):  # as in the background (`nohup`); so would be all that this starts
            signal.signal(number, handler)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # this process reads checkpoints
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns where an item is read without its checkpoint
    began, chosen = time.monotonic(), flags.only or STAGES
    Stage.end = began + 60 * flags.minutes
    chaos = Chaos(Path(tempfile.mkdtemp(prefix="chaos-")), flags.seed)
    print(f"seed {flags.seed}, in {chaos.folder}", flush=True)
    stages: list[Stage] = []
    if "pretrain" in chosen:
        alone, two, four = (
            (chaos.pretrain(layout), layout, most) for layout, most in ((ALONE, 8), (Layout(2), 4), (Layout(4), 3))
        )
        stages.append(chaos.stage("pretrain", [alone, two, alone, alone, four, alone], flags.kills, flags.jobs))
    if "changes" in chosen:
        stages.append(chaos.changes(flags.changes))
    if "prepare" in chosen:
        commands = [(chaos.prepare(kind), ALONE, 3) for kind in ("jsonl", "python-docs")]
        stages.append(chaos.stage("prepare", commands, flags.prepare, flags.jobs))
    if "finetune" in chosen:
        stages.append(chaos.stage("finetune", [(chaos.finetune(), ALONE, 4)], flags.finetune, flags.jobs))
    faults: dict[str, tuple[int, Run]] = {}
    if "disk" in chosen and may_mount(chaos.folder):
        for command in (chaos.pretrain(), chaos.prepare("jsonl"), chaos.finetune()):
            for fault, early in itertools.product((full, read_only), (True, False)):
                when = "before the start" if early else "at a random moment"
                case = f"{command.arguments(chaos.folder)[0]} | {fault.__name__.replace('_', '-')} {when}"
                faults[case] = chaos.disk(command, fault, early)
    elif "disk" in chosen:
        print("disk: not run, because this user may not mount")
    table(stages, faults)
    runs = [run for stage in stages for run in stage.runs] + [run for _, run in faults.values()]
    findings = sum(len(run.findings) for run in runs)
    minutes = round((time.monotonic() - began) / 60, 1)
    counts = {stage.name: stage.counts() for stage in stages} | ({"disk": len(faults)} if faults else {})
    record("chaos", seed=flags.seed, minutes=minutes, **counts, findings=findings)
    if findings:
        print(f"{findings} findings; their folders are in {chaos.folder}")
        sys.exit(1)
    shutil.rmtree(chaos.folder)


def table(stages: Sequence[Stage], faults: dict[str, tuple[int, Run]]) -> None:
    """Prints the counts in Markdown."""
    if stages:
        columns = list(stages[0].counts())
        print(f"\n| what | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
        for stage in stages:
            print(f"| {stage.name} | {' | '.join(map(str, stage.counts().values()))} |")
    if faults:
        print(f"\n| command | disk | exit code | {' | '.join(FINDINGS)} |\n|---|---|---|{'---|' * len(FINDINGS)}")
        for case, (code, run) in faults.items():
            print(f"| {case} | {code} | {' | '.join(str(len(getattr(run, kind))) for kind in FINDINGS)} |")


if __name__ == "__main__":
    main()
