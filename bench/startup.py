"""Seconds from the start of `pretrain` to the end of its first step, with a cold and a warm compilation cache.

    .venv/bin/python -m bench.startup --config=configs/tiny.py

Runs the command twice with one new cache, each time with a new workdir. The corpus of the config must be prepared.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time

from bench.record import record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/tiny.py")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{folder}/xla"
        seconds = {name: first_step(arguments.config, f"{folder}/{name}") for name in ("cold", "warm")}
    record("startup", config=arguments.config, **seconds)


def first_step(config: str, workdir: str) -> float:
    """Returns the seconds until the run prints its first step, then kills it."""
    flags = [f"--config={config}", f"--workdir={workdir}", "--config.train.log_every=1"]
    start = time.perf_counter()
    command = [sys.executable, "-u", "-m", "symbert_jax", "pretrain", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        first_line = next((line for line in run.stdout if line.startswith("step 1/")), None)
        seconds = time.perf_counter() - start
        run.kill()
    assert first_line, "the run ended before its first step; its errors are above"
    return round(seconds, 1)


if __name__ == "__main__":
    main()
