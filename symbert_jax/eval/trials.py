"""What has been tried: a trial is one task, batch size, learning rate and seed on one checkpoint's parameters.

A finished trial is never repeated: `trials.jsonl` in the workdir remembers it with everything that decides its
result, so a changed protocol, checkpoint or dataset is another trial. Trials that trained together are one line,
written at once: after a kill either all of them are there or none.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence

from etils import epath

from symbert_jax.eval.scores import score
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
    protocol: str  # all else of the protocol, as JSON

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
    """The finished trials of a workdir; one process alone writes."""

    def __init__(self, workdir: epath.Path, *, write: bool):
        self.file, self.write = workdir / FILE, write
        self.results: dict[Trial, Result] = {}
        lines = self.file.read_text().splitlines(keepends=True) if self.file.exists() else []
        if lines and not lines[-1].endswith("\n"):  # a kill cut it short
            lines.pop()
            if write:
                write_whole(self.file, "".join(lines))
        for line in lines:
            for found in json.loads(line):
                trial = Trial(**found.pop("trial"))
                self.results[trial] = Result(trial, **found)

    def add(self, results: Sequence[Result]) -> None:
        self.results |= {result.trial: result for result in results}
        if self.write:
            append_json(self.file, [dataclasses.asdict(result) for result in results])
