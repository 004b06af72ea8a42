"""Finished trials. A trial is one task, batch size, learning rate and seed on the parameters of one checkpoint.

A finished trial is never repeated: `trials.jsonl` in the workdir records it with everything that decides its
result, so a changed protocol, checkpoint or dataset is another trial. Trials that trained side by side are one line,
written at once: after a kill the file has all of them or none.
"""

import dataclasses
import hashlib
import json
import math
import sys
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from symbert_jax.eval.scores import score
from symbert_jax.eval.tasks import TASKS
from symbert_jax.storage import append_json, write_whole

FILE = "trials.jsonl"


@dataclasses.dataclass(frozen=True)
class Trial:
    """Everything that decides a result."""

    checkpoint: str  # SHA-256 of the parameters that training starts from
    data: str  # SHA-256 of the tokenised training and validation examples
    task: str
    batch_size: int
    learning_rate: float
    seed: int
    protocol: str  # the fields of the protocol that all its trials share, as JSON

    @property
    def key(self) -> str:
        """The trial's name in files."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self)).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Result:
    trial: Trial
    scores: dict[str, dict[str, float]]  # of every validation split by its name, each metric as a fraction
    collapsed: bool  # no better than a constant answer, on the first of the splits
    epoch: int  # the one that counts, from 1
    seconds: float  # of wall time, an equal share of what trained together

    @property
    def score(self) -> float:
        """0 to 100, the mean over the splits."""
        return sum(map(score, self.scores.values())) / len(self.scores)


class Log:
    """The finished trials of a workdir; one process alone writes.

    Every result carries a checksum. A damaged line stays in the file, but none of its results counts: its trials train
    again.
    """

    def __init__(self, workdir: epath.Path, *, write: bool):
        self.file, self.write = workdir / FILE, write
        self.results: dict[Trial, Result] = {}
        *lines, rest = self.file.read_bytes().split(b"\n") if self.file.exists() else [b""]
        if rest and write:  # a kill cut the last line short
            write_whole(self.file, b"".join(line + b"\n" for line in lines))
        for number, line in enumerate(lines, start=1):
            try:
                self.results |= {result.trial: result for result in _parse(line)}
            except (ValueError, RecursionError) as error:
                if write:
                    reason = " ".join(str(error).split())[:200]
                    print(f"warning: {self.file}, line {number}: {reason}; its trials train again", file=sys.stderr)

    def add(self, results: Sequence[Result]) -> None:
        self.results |= {result.trial: result for result in results}
        if self.write:
            facts = [dataclasses.asdict(result) for result in results]
            append_json(self.file, [each | {"checksum": _checksum(each)} for each in facts])


def _parse(line: bytes) -> Iterator[Result]:
    """The results of a line.

    Raises:
      ValueError: `Log.add` does not write such a line.
    """
    found = json.loads(line)
    _check(isinstance(found, list), "not a list of results")
    for facts in found:
        _check(isinstance(facts, dict), "a result that is not an object")
        if "checksum" in facts:  # earlier versions did not write one
            _check(facts.pop("checksum") == _checksum(facts), "a checksum that does not match")
        trial, scores = _build(Trial, facts.get("trial")), facts.get("scores")
        _check(trial.task in TASKS, f"unknown task {trial.task!r}")
        task = TASKS[trial.task]
        splits = {split.name for split in task.validation}
        _check(isinstance(scores, dict) and set(scores) == splits, f"scores of other splits than {task.name} has")
        for metrics in scores.values():
            is_complete = isinstance(metrics, dict) and set(metrics) == set(task.metrics)
            _check(is_complete, f"scores of other metrics than {task.name} has")
            in_range = all(type(value) is float and -1 <= value <= 1 for value in metrics.values())
            _check(in_range, "a score that is not a number from -1 to 1")
        yield _build(Result, facts | {"trial": trial})


def _build(kind: type, facts: Any) -> Any:
    """An instance of a dataclass of scalars and dicts, from a mapping that has exactly its fields."""
    types = typing.get_type_hints(kind)
    _check(isinstance(facts, dict) and set(facts) == set(types), f"other fields than {', '.join(types)}")
    for name, value in facts.items():
        wanted = typing.get_origin(types[name]) or types[name]
        _check(type(value) is wanted, f"{name} is not of type {wanted.__name__}")
        _check(wanted is not float or math.isfinite(value), f"{name} is not finite")
    return kind(**facts)


def _check(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


def _checksum(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
