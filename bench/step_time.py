"""Time of a training step of any config on this machine's devices, with several attentions and kernels.

    .venv/bin/python -m bench.step_time --config=configs/base_fast.py --config.data.batch_size=64 --kernels=xla,cudnn

All contenders run in turns of a few steps and in alternating order, in one process, because a TPU serves only one
process. The batch consists of full rows of random tokens. Records for each contender the median and the least time of a
step in ms, sequences/s, tokens/s, the model's FLOPs, MFU if the device's peak is known, and the program's peak memory
in bytes. Of a contender that fails, for example because it needs too much memory, it records the error.

The next command also prints and records which kernels of each contender take the most time:

    .venv/bin/python -m bench.step_time --config=configs/base.py --config.data.batch_size=32 --kernel-times=10
"""

import dataclasses
import itertools
import statistics
import sys
import time
import traceback
from collections.abc import Callable

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

from bench import kernel_times
from bench.contenders import in_turns
from bench.record import record
from bench.steps import masked_batch
from symbert_jax import config as configs
from symbert_jax.batch import MlmBatch
from symbert_jax.chips import peak_flops
from symbert_jax.config import ATTENTIONS, Config
from symbert_jax.data.masking import max_train_predictions
from symbert_jax.model import kernels
from symbert_jax.model.flops import train_flops
from symbert_jax.sharding import make_mesh, put_batch
from symbert_jax.train import state, step

CONFIG = config_flags.DEFINE_config_file("config", "configs/base_fast.py")
ATTENTION = flags.DEFINE_list("attentions", list(ATTENTIONS), "The attentions to compare.")
KERNELS = flags.DEFINE_list("kernels", ["auto"], "xla | short | splash | cudnn | triton | auto, separated by commas.")
ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns per contender.")
STEPS = flags.DEFINE_integer("steps", 5, "Steps per turn.")
SLOWEST = flags.DEFINE_integer("kernel-times", 0, "The number of slowest kernels to show of each contender.")


def main() -> None:
    flags.FLAGS(sys.argv)
    contenders = {}
    for attention, kernel in itertools.product(ATTENTION.value, KERNELS.value):
        CONFIG.value.model.update(attention=attention, kernel=kernel)
        contenders[f"{attention} {kernel}"] = configs.freeze(CONFIG.value)
    config = next(iter(contenders.values()))
    mesh = make_mesh(config.mesh)
    with jax.set_mesh(mesh):
        model, rows = config.model, config.data.batch_size
        num_masked = max_train_predictions(config)
        tokens, positions, targets = masked_batch(rows, model.length, model.vocab_size, num_masked)
        batch = put_batch(MlmBatch(tokens, positions, targets, np.ones((rows, num_masked), np.float32)))
        run_steps, programs, results = {}, {}, {}
        for name, contender in contenders.items():
            try:
                run_steps[name], programs[name] = start_contender(contender, batch)
            except Exception as error:  # the others still run
                traceback.print_exc()
                results[name] = {"error": f"{type(error).__name__}: {error}".partition("\n")[0]}
        times: dict[str, list[float]] = {name: [] for name in run_steps}
        for name in in_turns(ROUNDS.value, list(run_steps)):
            times[name] += run_steps[name](STEPS.value)
        slowest = {name: find_slowest(name, run_steps[name], programs[name]) for name in run_steps if SLOWEST.value}
    device = mesh.devices.flat[0].device_kind
    for name, milliseconds in times.items():
        memory = programs[name].memory_analysis().peak_memory_in_bytes
        results[name] = summarize(contenders[name], milliseconds, memory, mesh.size, device)
        if name in slowest:
            results[name]["kernels"] = slowest[name]
    shape = {field: getattr(config.model, field) for field in ("layers", "dim", "length", "dtype")}
    shape |= {"batch_size": config.data.batch_size, "unroll": config.model.unroll}
    shape |= {"dropout": config.model.dropout, "attention_dropout": config.model.attention_dropout}
    record("step_time", device=device, devices=mesh.size, shape=shape, contenders=results)


def start_contender(config: Config, batch: MlmBatch) -> tuple[Callable[[int], list[float]], jax.stages.Compiled]:
    """Compiles and warms up a contender.

    Returns:
      A function that takes a number of steps and returns the milliseconds of each; the compiled program.
    """
    kernels.check(config.model, jax.sharding.get_abstract_mesh().abstract_device)
    # A compiled step of the schedule wsd takes the learning rate from another program.
    optim = dataclasses.replace(config.optim, schedule="linear", decay_steps=0, decay_shape="linear")
    config = dataclasses.replace(config, optim=optim)
    current = state.init(config)
    compiled = step.make_train_step(config).lower(current, batch).compile()

    def run(steps: int) -> list[float]:
        nonlocal current
        milliseconds = []
        for _ in range(steps):
            start = time.perf_counter()
            current, _ = jax.block_until_ready(compiled(current, batch))
            milliseconds.append(1e3 * (time.perf_counter() - start))
        return milliseconds

    run(steps=2)
    return run, compiled


def find_slowest(name: str, run: Callable[[int], object], compiled: jax.stages.Compiled) -> list[list[float | str]]:
    """Prints and returns the slowest kernels of a contender: milliseconds and calls per step, kernel, operation."""
    found = kernel_times.measure(run, STEPS.value, compiled.as_text())
    print(f"{name}:\n{kernel_times.table(found, SLOWEST.value)}", flush=True)
    return [[round(ms, 3), round(calls, 1), *names] for ms, calls, *names in found[: SLOWEST.value]]


def summarize(config: Config, milliseconds: list[float], memory: int, devices: int, device: str) -> dict:
    """Returns the numbers to record of a contender."""
    seconds = statistics.median(milliseconds) / 1e3
    model, rows = config.model, config.data.batch_size
    flops = train_flops(model, rows, max_train_predictions(config))
    peak = peak_flops(device)
    return {
        "ms": round(1e3 * seconds, 2),
        "least_ms": round(min(milliseconds), 2),
        "sequences_per_second": round(rows / seconds, 1),
        "tokens_per_second": round(rows * model.length / seconds),
        "model_flops": flops,
        "mfu": peak and round(flops / seconds / peak / devices, 4),
        "memory": memory,
    }


if __name__ == "__main__":
    main()
