"""The commands that are killed: their arguments, their progress, and which of their files must be the same."""

import abc
import collections
import dataclasses
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.chaos.comparisons import (
    differing_arrays,
    differing_files,
    read_checkpoint,
    read_metrics,
    read_params,
    read_reference_checkpoint,
    saved_steps,
)

PHASES = BEFORE_STEPS, IN_STEPS, AFTER_STEPS = "before the first step", "in between", "after the last step"
TOLERANCE = 1e-3  # the most by which losses on different meshes may differ, in nats


class Reference(NamedTuple):
    """An uninterrupted run."""

    folder: Path
    seconds_to_first_step: float  # from the start of the run to the end of its first step
    seconds_after_first_step: float  # from the end of the first step to the end of the run


@dataclasses.dataclass(frozen=True)
class Command(abc.ABC):
    """A command of the package. Each of its runs writes below one folder only."""

    name: str
    reference: Reference | None = None  # None until it is made
    saves_at_signals = False  # whether SIGTERM, SIGINT and SIGHUP end it with exit code 0 after its first step

    @abc.abstractmethod
    def arguments(self, folder: Path) -> list[str]:
        """Returns what follows `python -m symbert_jax`."""

    @abc.abstractmethod
    def phase(self, folder: Path, output: str) -> str:
        """Returns which of PHASES a process with this output is in."""

    @abc.abstractmethod
    def saved_progress(self, folder: Path) -> object:
        """Returns the progress that is saved so far, which the next start must find."""

    @abc.abstractmethod
    def describe_lost_progress(self, saved: object, folder: Path, output: str) -> str:
        """Describes which part of `saved` a start with this output has lost; empty if it lost none."""

    @abc.abstractmethod
    def find_differences(self, folder: Path) -> list[str]:
        """Describes how the files of a finished run differ from those of the reference."""


@dataclasses.dataclass(frozen=True)
class Pretrain(Command):
    """Pretraining of a small model, with many checkpoints."""

    corpus: Path = Path()
    steps: int = 200
    log_every: int = 3  # most checkpoints and validations lie between two log points
    keep: str = "keep_latest=2"  # a field of config.train and its value
    compares_bits: bool = True  # whether all results are compared bit for bit, or only losses within TOLERANCE
    saves_at_signals = True

    def arguments(self, folder: Path) -> list[str]:
        fields = {
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
        config = ["--config=configs/tiny.py", *_flags(fields), f"--config.train.{self.keep}"]
        return ["pretrain", f"--workdir={folder / 'run'}", *config]

    def phase(self, folder: Path, output: str) -> str:
        if f"\nstep {self.steps}/" in output or "nothing to do" in output:
            return AFTER_STEPS
        # not "step 20 validation loss": it may precede the first step, for a checkpoint that a signal left unvalidated
        return IN_STEPS if re.search(r"\nstep \d+/", output) else BEFORE_STEPS

    def saved_progress(self, folder: Path) -> int:
        return max(saved_steps(folder / "run"), default=0)

    def describe_lost_progress(self, saved: object, folder: Path, output: str) -> str:
        found = re.search(r"(?:from|is at) step ([\d,]+)", output)
        start = int(found[1].replace(",", "")) if found else saved
        return "" if start == saved else f"it continued from step {start}, although step {saved} was saved"

    def find_differences(self, folder: Path) -> list[str]:
        actual, expected = folder / "run", self.reference.folder / "run"
        names, expected_names = (sorted(path.name for path in workdir.iterdir()) for workdir in (actual, expected))
        found = [] if names == expected_names else [f"the workdir holds {names}, not {expected_names}"]
        return [*found, *self._differing_metrics(actual, expected), *self._differing_checkpoints(actual, expected)]

    def _differing_metrics(self, actual: Path, expected: Path) -> Iterator[str]:
        try:
            lines, expected_lines = (read_metrics(workdir) for workdir in (actual, expected))
        except ValueError as error:
            yield f"metrics.jsonl is damaged: {error}"
            return
        keys, expected_keys = (
            [(line["step"], *sorted(line.keys() - {"step"})) for line in run] for run in (lines, expected_lines)
        )
        if keys != expected_keys:
            counts, expected_counts = collections.Counter(keys), collections.Counter(expected_keys)
            missing, surplus = expected_counts - counts, counts - expected_counts
            yield f"metrics.jsonl: missing {[*missing.elements()][:3]}, surplus {[*surplus.elements()][:3]}"
            return
        differing = []
        for line, expected_line in zip(lines, expected_lines, strict=True):
            for name, expected_value in expected_line.items():
                if self.compares_bits:
                    is_allowed = line[name] == expected_value
                else:
                    is_near = math.isclose(line[name], expected_value, abs_tol=TOLERANCE)
                    is_allowed = is_near or not name.endswith("/loss")
                if not is_allowed:
                    differing.append(f"{name} of step {line['step']} is {line[name]}, not {expected_value}")
        if differing:
            yield f"metrics.jsonl: {len(differing)} values differ, the first: {differing[0]}"

    def _differing_checkpoints(self, actual: Path, expected: Path) -> Iterator[str]:
        losses = {line["step"]: line["validation/loss"] for line in read_metrics(expected) if "validation/loss" in line}
        # if two losses are equal, the later step is the best
        best = min(saved_steps(expected), key=lambda step: (losses[step], -step))
        for step in ({best, self.steps} if self.compares_bits else {self.steps}) - saved_steps(actual):
            yield f"checkpoint {step} is not there, only {sorted(saved_steps(actual))}"
        for path in (actual / "checkpoints").iterdir():
            if path.name.isdigit():
                continue
            if not (expected / "checkpoints" / path.name).exists() and (path.is_file() or any(path.iterdir())):
                yield f"left behind: {path.name} in checkpoints"
        for step in sorted(saved_steps(actual)):
            try:
                found = read_checkpoint(actual, step)
            except Exception as error:  # Orbax raises many kinds
                yield f"checkpoint {step} cannot be read: {' '.join(str(error).split())[:200]}"
                continue
            if self.compares_bits and step in saved_steps(expected):
                different = differing_arrays(found, read_reference_checkpoint(expected, step))
                if different:
                    yield f"checkpoint {step}: {len(different)} arrays differ, the first: {different[0]}"


@dataclasses.dataclass(frozen=True)
class Prepare(Command):
    """Preparation of a corpus of several thousand documents."""

    source: str = ""

    def arguments(self, folder: Path) -> list[str]:
        fields = {"data.dir": folder / "corpus", "data.sources": self.source}
        return ["prepare", "--config=configs/tiny.py", *_flags(fields)]

    def phase(self, folder: Path, output: str) -> str:
        """The first step creates the folder in which the corpus grows, the last one renames that folder."""
        if (folder / "corpus" / "manifest.json").exists():
            return AFTER_STEPS
        return IN_STEPS if (folder / "corpus.incomplete").exists() else BEFORE_STEPS

    def saved_progress(self, folder: Path) -> bool:
        return (folder / "corpus" / "manifest.json").exists()

    def describe_lost_progress(self, saved: object, folder: Path, output: str) -> str:
        return "the finished corpus is gone" if saved and not self.saved_progress(folder) else ""

    def find_differences(self, folder: Path) -> list[str]:
        return differing_files(folder, self.reference.folder, ignored=())


@dataclasses.dataclass(frozen=True)
class Finetune(Command):
    """A small GLUE: two seeds of three tasks. RTE starts from the model of MNLI."""

    checkpoint: Path = Path()
    glue: Path = Path()

    def arguments(self, folder: Path) -> list[str]:
        fields = {
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
        return ["finetune", "--config=configs/glue.py", f"--workdir={folder / 'run'}", *_flags(fields)]

    def phase(self, folder: Path, output: str) -> str:
        """The first step ends with the first group of trials, the last step with all trials."""
        if re.search(r"\((\d+)/\1 trials|Wrote ", output):  # N of N trials that this start has to train
            return AFTER_STEPS
        return IN_STEPS if " trials, " in output else BEFORE_STEPS

    def saved_progress(self, folder: Path) -> set[str]:
        """Returns the complete lines of trials.jsonl."""
        file = folder / "run" / "trials.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        return {line for line in lines if line.endswith("\n")}

    def describe_lost_progress(self, saved: object, folder: Path, output: str) -> str:
        missing = len(saved - self.saved_progress(folder))
        return f"{missing} lines of trials.jsonl are gone" if missing else ""

    def find_differences(self, folder: Path) -> list[str]:
        actual, expected = folder / "run", self.reference.folder / "run"
        files = (workdir / "results.json" for workdir in (actual, expected))
        results, expected_results = (re.sub(r'"seconds": [\d.e-]+', "", file.read_text()) for file in files)
        found = [] if results == expected_results else ["results.json differs"]
        # results.md, the figures and trials.jsonl hold times; arrays are compared below
        ignored = ("results.json", "results.md", "trials.jsonl", ".png", "params", ".npz")
        found += differing_files(actual, expected, ignored)
        for path in sorted([*expected.glob("predictions/*.npz"), *expected.glob("models/*/*/params")]):
            relative = path.relative_to(expected)
            read = read_params if path.is_dir() else np.load
            if not (actual / relative).exists():
                found.append(f"there is no {relative}")
            elif different := differing_arrays(dict(read(actual / relative)), dict(read(path))):
                found.append(f"{relative}: {len(different)} arrays differ, the first: {different[0]}")
        return found


def _flags(fields: dict[str, object]) -> list[str]:
    return [f"--config.{name}={value}" for name, value in fields.items()]
