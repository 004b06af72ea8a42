"""`bench.chaos` on one run: a killed pretrain ends with the files of an uninterrupted one."""

import os
import random
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import pytest

from bench.chaos import starts
from bench.chaos.references import References
from bench.chaos.runs import Run
from bench.chaos.starts import ONE_PROCESS, Kill, StartedCommand
from tests.conftest import write_corpus
from tests.forked import ForkedCommand


def fork(arguments: list[str], *, env: dict[str, str], stdout: IO, **_: object) -> ForkedCommand:
    """Starts `python -m symbert_jax ARGUMENTS` in place of `Popen`."""
    return ForkedCommand(arguments[3:], env, (os.open(os.devnull, os.O_RDONLY), os.dup(stdout.fileno())))


def test_killed_pretrain_ends_like_an_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends SIGKILL after a checkpoint. Parameters, moments, metrics and validations have equal bits.

    No seed fixes the time of the signal, because the result must not depend on it.
    """
    monkeypatch.setattr(starts, "subprocess", SimpleNamespace(Popen=fork, DEVNULL=None, STDOUT=None))
    corpus = write_corpus(tmp_path / "corpus", length=32, num_rows=256)
    run = Run(References(tmp_path, corpus).pretrain_command(steps=40), tmp_path / "run")
    run.folder.mkdir()

    def kill_after_save(started: StartedCommand) -> Kill | None:
        started.wait_for_save()
        started.wait(random.uniform(0, started.command.reference.seconds_after_first_step / 8))
        return started.kill(signal.SIGKILL, process=0)

    assert not run.start(ONE_PROCESS, kill_after_save), "it ended before the kill"
    assert run.start(ONE_PROCESS)
    run.compare()
    assert not run.findings, run.kills
