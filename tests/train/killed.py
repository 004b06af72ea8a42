"""Kills a command in the middle: `tests.forked` imports it into the fork of a command.

The environment says which: KILLED, the `--workdir` of the command, and KILLED_AFTER, the steps that it takes until then
on all of its runs. It is killed once, when its latest run has a whole checkpoint.
"""

import itertools
import os
import signal
import sys
import time
from pathlib import Path

from symbert_jax.train import loop

should_stop, steps = loop.Stop.should_stop, itertools.count(1)


def kill_once(self: loop.Stop, step: int) -> str:
    workdir = Path(os.environ["KILLED"])
    marker = workdir.with_name(f"{workdir.name}_was_killed")
    is_chosen = f"--workdir={workdir}" in sys.argv and next(steps) == int(os.environ["KILLED_AFTER"])
    if is_chosen and not marker.exists():
        while not all(any(path.name.isdigit() for path in each.iterdir()) for each in workdir.rglob("checkpoints")):
            time.sleep(0.01)
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return should_stop(self, step)


loop.Stop.should_stop = kill_once
