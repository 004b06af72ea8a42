"""The short version of bench/chaos.py: what a pretrain that is killed leaves is what an uninterrupted one leaves."""

import random
import signal
from functools import partial
from pathlib import Path

from bench.chaos.stages import ALONE, PATIENCE, Chaos, Kill, Run, Start


def test_a_pretrain_killed_at_random_moments_leaves_what_an_uninterrupted_one_leaves(
    corpus: Path, tmp_path: Path
) -> None:
    """Compares parameters and moments bit for bit, metrics and validations, after a SIGKILL and a SIGTERM.

    Any moment must do, so none is fixed by a seed. Both signals come after a new checkpoint, from which the next
    start goes on.
    """
    chaos, run, folder = Chaos(tmp_path, None, corpus), Run(), tmp_path / "run"
    command = chaos.pretrain(steps=120)
    folder.mkdir()

    def strike(number: signal.Signals, start: Start) -> Kill | None:
        saved = command.saved(folder)
        start.wait(PATIENCE, lambda: command.saved(folder) > saved)
        start.wait(random.uniform(0, chaos.seconds[command.reference][1] / 8))
        return start.kill(number, process=0)

    for number in (signal.SIGKILL, signal.SIGTERM):
        assert not chaos.attempt(command, ALONE, folder, run, partial(strike, number)), "it ended before the signal"
    assert chaos.attempt(command, ALONE, folder, run, lambda start: None)
    assert not run.findings + command.differences(folder)
