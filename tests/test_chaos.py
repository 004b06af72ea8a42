"""`bench.chaos` on one run: a killed pretrain ends with the files of an uninterrupted one."""

import random
from pathlib import Path

from bench.chaos.references import References
from bench.chaos.runs import Run
from bench.chaos.stages import kill_after_save
from bench.chaos.starts import ONE_PROCESS
from tests.conftest import write_corpus


def test_killed_pretrain_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    """Kills after a checkpoint. Parameters, moments, metrics and validations must be the same bit for bit.

    No seed fixes the signal and the moment, because the result must not depend on them.
    """
    corpus = write_corpus(tmp_path / "corpus", length=32, rows=256)
    run = Run(References(tmp_path, corpus).pretrain_command(steps=120), tmp_path / "run")
    run.folder.mkdir()
    assert not run.start(ONE_PROCESS, lambda start: kill_after_save(start, random.Random())), "it ended before the kill"
    assert run.start(ONE_PROCESS)
    run.compare()
    assert not run.findings, run.kills
