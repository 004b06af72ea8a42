"""A run that is killed and continued, compared with an uninterrupted one on this machine's devices.

    .venv/bin/python -m bench.resume --kill-at=160 --config=configs/tiny.py

Prepares the corpus if it does not exist. One run gets SIGKILL when it has logged the step of the flag, and then the
same command again. Records how many lines of metrics.jsonl differ, except for speeds, and how many arrays of the last
checkpoint, parameters and moments, differ in any bit: none. On a GPU this needs xla_gpu_deterministic_ops, which it
sets: otherwise atomic additions in no fixed order change the last bits of gradients from run to run.
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

from bench.chaos.comparisons import differing_arrays, read_checkpoint, read_metrics, saved_steps
from bench.record import record

SYMBERT = (sys.executable, "-u", "-m", "symbert_jax")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kill-at", type=int, default=160, help="the logged step at which the run is killed")
    parser.add_argument("--config", default="configs/tiny.py")
    arguments = parser.parse_args()
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true"
    config = f"--config={arguments.config}"
    subprocess.run([*SYMBERT, "prepare", config], check=True)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder, "whole"), Path(folder, "killed")
        subprocess.run([*SYMBERT, "pretrain", f"--workdir={whole}", config], check=True)
        command = [*SYMBERT, "pretrain", f"--workdir={killed}", config]
        kill(command, arguments.kill_at)
        steps_at_kill = saved_steps(killed)
        subprocess.run(command, check=True)
        step = max(saved_steps(whole))
        arrays, expected = read_checkpoint(killed, step), read_checkpoint(whole, step)
        metrics, expected_metrics = read_metrics(killed), read_metrics(whole)
    record(
        "resume",
        device=jax.devices()[0].device_kind,
        config=arguments.config,
        killed_after_step=arguments.kill_at,
        continued_from=max(steps_at_kill, default=0),
        step=step,
        different_metrics=sum(line != other for line, other in itertools.zip_longest(metrics, expected_metrics)),
        different_arrays=len(differing_arrays(arrays, expected)),
        largest_difference=max(float(np.abs(arrays[name] - expected[name]).max()) for name in expected),
    )


def kill(command: list[str], step: int) -> None:
    """Runs the command until it prints the line of `step`, then kills it."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        for line in run.stdout:
            if line.startswith(f"step {step}/"):
                run.kill()
                return
    sys.exit(f"bench.resume: the run ended before it logged step {step}; its errors are above")


if __name__ == "__main__":
    main()
