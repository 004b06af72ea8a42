"""Fine-tuning reads a file with mutated bytes, ignores it, or refuses it in one line."""

import dataclasses
import gzip
import io
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from symbert_jax.errors import UserError
from symbert_jax.eval import saved
from symbert_jax.eval.batches import TokenizedSplit
from symbert_jax.eval.examples import Source
from symbert_jax.eval.task_data import TaskData
from symbert_jax.eval.tasks import TASKS
from symbert_jax.eval.trials import Trial, TrialLog, TrialResult
from symbert_jax.eval.workdir import Workdir
from tests.eval.conftest import CONFIG

MUTANTS = 100  # of each file
TRIAL = Trial("c", "d", task="sst2", batch_size=16, learning_rate=1e-5, seed=0, protocol="{}")
SCORES = {"validation": {"accuracy": 0.625}}
RESULT = TrialResult(TRIAL, SCORES, collapsed=False, epoch=3, seconds=1.5)
PIECES = [b"\0", b"\n", b"\r", b"\t", b'"', b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"NaN", b"1e999", b"[[", b"null"]


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Returns `content` with damage, once or several times: inserts, deletes, flips or compresses bytes."""
    for _ in range(rng.choice([1, 1, 2, 5])):
        position, size = rng.randrange(len(content) + 1), rng.randrange(1, 20)
        head, tail = content[:position], content[position:]
        content = rng.choice(
            [
                head + rng.choice(PIECES) + tail,
                head + rng.randbytes(size) + tail,
                head + tail[size:],
                head,
                head + bytes(min(size, len(tail))) + tail[size:],
                head + bytes(byte ^ 1 << size % 8 for byte in tail[:1]) + tail[1:],
                gzip.compress(content),
                content.replace(b"\n", b"\r"),
                b"\xff\xfe" + content,
            ]
        )
    return content


def write_tsv(folder: Path, name: str, header: str, row: str) -> tuple[Path, Callable[[], object]]:
    task = TASKS[name]
    file = folder / task.folders[0] / "dev.tsv"
    file.parent.mkdir()
    file.write_text(header + row * 3)
    return file, lambda: Source(f"tsv:{folder}").read(task, task.validation[0], labelled=True)


def write_trials(folder: Path) -> tuple[Path, Callable[[], object]]:
    TrialLog(epath.Path(folder), is_writer=True).add([RESULT])

    def read() -> None:
        for trial, result in TrialLog(epath.Path(folder), is_writer=True).results.items():
            assert trial != TRIAL or result == RESULT, "a damaged result was accepted"

    return folder / "trials.jsonl", read


def write_description(folder: Path) -> tuple[Path, Callable[[], object]]:
    description = saved.SavedModel(score=50.0, task="sst2", model=CONFIG.model, trial="key")
    content = description._asdict() | {"model": dataclasses.asdict(CONFIG.model)}
    (folder / "model.json").write_text(json.dumps(content))
    return folder / "model.json", lambda: saved.read_description(epath.Path(folder))


def write_predictions(folder: Path) -> tuple[Path, Callable[[], object]]:
    ones, labels = np.ones(7, np.int32), np.zeros(7, np.float32)
    split = TokenizedSplit(np.zeros((7, 4), np.int32), lengths=ones, second_starts=ones, labels=labels)
    data = TaskData(train=split, validation={}, test={"SST-2.tsv": split})
    logits = np.arange(14, dtype=np.float32).reshape(7, 2)
    workdir = Workdir(epath.Path(folder))
    file = workdir.predictions_file(TRIAL, data)
    file.parent.mkdir()
    archive = io.BytesIO()
    np.savez(archive, **{"SST-2.tsv": logits})
    file.write_bytes(archive.getvalue())

    def read() -> None:
        found = workdir.read_predictions(TRIAL, data)
        assert found is None or (found["SST-2.tsv"] == logits).all(), "damaged predictions were accepted"

    read()
    return Path(file), read


# functions that write a file and return it with a function that reads it
FILES: dict[str, Callable[[Path], tuple[Path, Callable[[], object]]]] = {
    "TSV of pairs": lambda path: write_tsv(
        path, "rte", "index\tsentence1\tsentence2\tlabel\n", "0\ta\tb\tentailment\n"
    ),
    "TSV without header": lambda path: write_tsv(path, "cola", "", "gj04\t1\t\tThe sailors rode.\n"),
    "TSV of a regression": lambda path: write_tsv(path, "stsb", "sentence1\tsentence2\tscore\n", "a\tb\t3.25\n"),
    "trials.jsonl": write_trials,
    "model.json": write_description,
    "predictions": write_predictions,
}


@pytest.mark.parametrize("name", FILES)
def test_mutated_file_is_read_ignored_or_refused(tmp_path, name) -> None:
    file, read = FILES[name](tmp_path)
    read()
    rng, content = random.Random(0), file.read_bytes()
    for _ in range(MUTANTS):
        file.write_bytes(mutate(content, rng))
        try:
            read()
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 600
