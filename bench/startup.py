"""Where the seconds from process start to the first step go, with a cold and with a warm compilation cache.

    .venv/bin/python -m bench.startup --config=configs/tiny.py

Runs itself twice in processes of their own over one fresh cache; the corpus of the config must be prepared.
Prints one JSON line of seconds a stage.
"""

import argparse
import importlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time

from bench.record import record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/tiny.py")
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.began:
        print(json.dumps(stages(arguments.config, arguments.began)))
        return
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
        command = [sys.executable, "-m", "bench.startup", f"--config={arguments.config}"]
        runs = [
            json.loads(subprocess.check_output([*command, f"--began={time.time()}"], env=environment)) for _ in range(2)
        ]
    record("startup", config=arguments.config, cold=runs[0], warm=runs[1])


def stages(file: str, began: float) -> dict[str, float]:
    """Seconds of each stage up to the end of the first step, and their sum; `began` is when the process did."""
    marks = [("", began)]

    def mark(stage: str) -> None:
        marks.append((stage, time.time()))

    import jax
    import numpy as np

    from symbert_jax import config as configs
    from symbert_jax.data.stream import open_stream
    from symbert_jax.sharding import make_mesh, put_batch
    from symbert_jax.train import loop, state, step

    assert loop  # a run imports it, and with it checkpoints and metrics
    mark("imports")
    config = configs.freeze(importlib.import_module(file.removesuffix(".py").replace("/", ".")).get_config())
    with jax.set_mesh(make_mesh(config.mesh)):
        mark("devices")
        stream = open_stream(config, np.arange(config.data.batch_size))
        mark("corpus")
        current = jax.block_until_ready(state.init(config))
        mark("parameters")
        batch = put_batch(next(stream.batches(0, 1, 1)))
        mark("first batch")
        jax.block_until_ready(step.make_train_step(config)(current, batch))
        mark("first step")
    seconds = {stage: round(end - start, 2) for (_, start), (stage, end) in itertools.pairwise(marks)}
    return seconds | {"total": round(marks[-1][1] - began, 2)}


if __name__ == "__main__":
    main()
