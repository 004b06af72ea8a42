"""`bench.chaos` on one run: a killed pretrain ends with the files of an uninterrupted one."""

import random
from pathlib import Path

from bench.chaos.references import References
from bench.chaos.runs import Run
from bench.chaos.stages import kill_after_save
from bench.chaos.starts import ONE_PROCESS
from tests.conftest import write_corpus


def test_killed_pretrain_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    """Compares parameters and moments bit for bit, metrics and validations, after a kill that follows a checkpoint.

    The result must not depend on the signal and the moment, so no seed fixes them.
    """
    corpus = write_corpus(tmp_path / "corpus", length=32, rows=256)
    run = Run(References(tmp_path, corpus).pretrain_command(steps=120), tmp_path / "run")
    run.folder.mkdir()
    assert not run.start(ONE_PROCESS, lambda start: kill_after_save(start, random.Random())), "it ended before the kill"
    assert run.start(ONE_PROCESS)
    run.compare()
    assert not run.findings, run.kills
