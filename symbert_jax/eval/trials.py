"""Trials, their results, and the file of the results.

A finished trial is never repeated: `trials.jsonl` in the workdir records its result with everything that decides it, so
that a trial with another protocol, checkpoint or dataset is a different one. The results of trials that were trained in
parallel are one line: after a kill the file contains all of them or none.
"""

import dataclasses
import hashlib
import json
import math
import sys
import typing
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from etils import epath

from symbert_jax.eval.scores import compute_score
from symbert_jax.eval.tasks import TASKS
from symbert_jax.storage import append_json, write_whole

FILE = "trials.jsonl"


class Setting(NamedTuple):
    """What differs between the trials of a task on one checkpoint, apart from the seed: a point of the grid."""

    learning_rate: float
    batch_size: int
    weight_decay: float  # see `Protocol.decay_factor`
    epochs: int


@dataclasses.dataclass(frozen=True)
class Trial:
    """Everything that decides the result of a trial."""

    checkpoint: str  # SHA-256 of the parameters that training starts from
    data: str  # SHA-256 of the tokenized training and validation examples
    task: str
    batch_size: int
    learning_rate: float
    seed: int
    protocol: str  # `Protocol.trial_fingerprint`

    @property
    def key(self) -> str:
        """The name of the trial in files."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self)).encode()).hexdigest()[:16]

    @property
    def setting(self) -> Setting:
        return Setting(self.learning_rate, self.batch_size, self.weight_decay, self.epochs)

    @property
    def epochs(self) -> int:
        """The number of epochs that the trial trains."""
        return int(json.loads(self.protocol)["epochs"])

    @property
    def weight_decay(self) -> float:
        return float(json.loads(self.protocol)["optim"]["weight_decay"])


@dataclasses.dataclass(frozen=True)
class TrialResult:
    trial: Trial
    scores: dict[str, dict[str, float]]  # metrics, as fractions, by validation split and name
    collapsed: bool  # no better than a constant prediction, on the first validation split
    epoch: int  # the selected one, from 1
    seconds: float  # wall time of the trials that were trained in parallel, divided by their number

    @property
    def score(self) -> float:
        """The mean of the scores of the validation splits, 0 to 100."""
        return sum(map(compute_score, self.scores.values())) / len(self.scores)


class TrialLog:
    """The results in the workdir. One process writes, the others read.

    A result has a checksum, unless an earlier version wrote it. A damaged line stays in the file, but its results are
    ignored and its trials are trained again. A line that a kill truncated is removed.
    """

    def __init__(self, workdir: epath.Path, *, is_writer: bool):
        self.file, self.is_writer = workdir / FILE, is_writer
        self.results: dict[Trial, TrialResult] = {}
        *lines, rest = self.file.read_bytes().split(b"\n") if self.file.exists() else [b""]
        if rest and is_writer:  # the last line was truncated
            write_whole(self.file, b"".join(line + b"\n" for line in lines))
        for number, line in enumerate(lines, start=1):
            try:
                self.results |= {result.trial: result for result in _parse(line)}
            except (ValueError, RecursionError) as error:
                if is_writer:
                    reason = " ".join(str(error).split())[:200]
                    warning = f"warning: {self.file}, line {number}: {reason}; its trials are trained again"
                    print(warning, file=sys.stderr)

    def add(self, results: Sequence[TrialResult]) -> None:
        """Records the results of trials that were trained in parallel."""
        self.results |= {result.trial: result for result in results}
        if self.is_writer:
            fields = [dataclasses.asdict(result) for result in results]
            append_json(self.file, [each | {"checksum": _checksum(each)} for each in fields])


def _parse(line: bytes) -> Iterator[TrialResult]:
    """Yields the results in a line.

    Raises:
      ValueError, RecursionError: the line is not one that `TrialLog.add` writes.
    """
    content = json.loads(line)
    _check(isinstance(content, list), "not a list of results")
    for fields in content:
        _check(isinstance(fields, dict), "a result that is not an object")
        if "checksum" in fields:  # earlier versions did not write one
            _check(fields.pop("checksum") == _checksum(fields), "a checksum that does not match")
        trial, scores = _build(Trial, fields.get("trial")), fields.get("scores")
        _check(trial.task in TASKS, f"unknown task {trial.task!r}")
        task = TASKS[trial.task]
        splits = {split.name for split in task.validation}
        _check(isinstance(scores, dict) and set(scores) == splits, f"scores of other splits than those of {task.name}")
        for metrics in scores.values():
            has_metrics = isinstance(metrics, dict) and set(metrics) == set(task.metrics)
            _check(has_metrics, f"other metrics than those of {task.name}")
            in_range = all(type(value) is float and -1 <= value <= 1 for value in metrics.values())
            _check(in_range, "a metric that is not a number from -1 to 1")
        yield _build(TrialResult, fields | {"trial": trial})


def _build(kind: type, fields: Any) -> Any:
    """Returns an instance of the dataclass `kind`.

    Raises:
      ValueError: `fields` is not a dict of exactly its fields, or a value has another type or is not finite.
    """
    types = typing.get_type_hints(kind)
    _check(isinstance(fields, dict) and set(fields) == set(types), f"fields that are not exactly {', '.join(types)}")
    for name, value in fields.items():
        wanted = typing.get_origin(types[name]) or types[name]
        _check(type(value) is wanted, f"{name} is not of type {wanted.__name__}")
        _check(wanted is not float or math.isfinite(value), f"{name} is not finite")
    return kind(**fields)


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _checksum(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]
