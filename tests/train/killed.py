"""Kills a command in the middle: import it into the process that `tests.command_line` forks.

The environment says which: KILLED, the `--workdir` of the command, and KILLED_AFTER, its steps until then. It is killed
once, when its first checkpoint is whole.
"""

import os
import signal
import sys
import time
from pathlib import Path

from symbert_jax.train import loop

should_stop = loop.Stop.should_stop


def kill_once(self: loop.Stop, step: int) -> str:
    workdir = Path(os.environ["KILLED"])
    marker, checkpoints = workdir.with_name(f"{workdir.name}_was_killed"), workdir / "checkpoints"
    is_chosen = f"--workdir={workdir}" in sys.argv and step == int(os.environ["KILLED_AFTER"])
    if is_chosen and not marker.exists():
        while not any(path.name.isdigit() for path in checkpoints.iterdir()):
            time.sleep(0.01)
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return should_stop(self, step)


loop.Stop.should_stop = kill_once
