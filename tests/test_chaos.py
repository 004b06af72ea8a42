"""`bench.chaos` on one run: a killed pretrain ends with the files of an uninterrupted one."""

import random
import signal
from functools import partial
from pathlib import Path

from bench.chaos.references import References
from bench.chaos.runs import Run
from bench.chaos.starts import ONE_PROCESS, Kill, Start


def test_killed_pretrain_ends_like_an_uninterrupted_one(corpus: Path, tmp_path: Path) -> None:
    """Compares parameters and moments bit for bit, metrics and validations, after a SIGKILL and a SIGTERM.

    The result must not depend on the moment of a kill, so no seed fixes it. Both signals come after a new checkpoint,
    from which the next start continues.
    """
    command = References(tmp_path, corpus).pretrain_command(steps=120)
    run = Run(command, tmp_path / "run")
    run.folder.mkdir()

    def kill_after_save(start: Start, number: signal.Signals) -> Kill | None:
        start.wait_for_save()
        start.wait(random.uniform(0, command.reference.seconds_after / 8))
        return start.kill(number, process=0)

    for number in (signal.SIGKILL, signal.SIGTERM):
        assert not run.start(ONE_PROCESS, partial(kill_after_save, number=number)), "it ended before the signal"
    assert run.start(ONE_PROCESS)
    run.compare()
    assert not run.findings
