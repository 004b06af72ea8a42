"""Estimates of a training step per chip by the TPU compiler, for a config in CONFIGS, any slice and size; needs no TPU.

Cycles are those of one core, in all and by named region. The same source, jax and libtpu give the same cycles. The time
of gathers, scatters, sorts and collectives, whose number is given, is not in the cycles, and neither are waits for
memory in the Pallas kernels of attention.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from configs import base, base_fast
from symbert_jax.chips import TPUS, Tpu
from symbert_jax.config import Config, freeze
from symbert_jax.data.masking import max_train_predictions
from symbert_jax.estimate.programs import compile_train
from symbert_jax.estimate.slices import compiler_version, find_slice
from symbert_jax.model.flops import train_flops

CONFIGS = {"base": base, "base_fast": base_fast}
# With these, libtpu loads on a machine without TPUs and asks no metadata server.
LIBTPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A config on a slice. The sizes and the kernel replace those of the config, and all layers are unrolled."""

    config: str
    topology: str
    attention: str
    rows: int = 8  # per chip
    length: int = 512
    layers: int = 12
    kernel: str = "auto"  # model.kernel

    @property
    def name(self) -> str:
        # rows, length, layers and kernel
        settings = ((field.name, getattr(self, field.name), field.default) for field in dataclasses.fields(self)[3:])
        changed = [f"{name}={value}" for name, value, default in settings if value != default]
        return " ".join([self.config, self.topology, self.attention, *changed])

    @property
    def chip(self) -> Tpu:
        return TPUS[self.topology.partition(":")[0]]


def estimates(cases: Sequence[Case], jobs: int) -> Iterator[tuple[Case, dict]]:
    """Yields each case with its cost. Compiles `jobs` cases at a time, each in a process of its own."""
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        yield from zip(cases, pool.map(_estimate_in_process, cases), strict=True)


def _estimate_in_process(case: Case) -> dict:
    """Runs `estimate` in a new process; returns its result."""
    command = [sys.executable, "-m", "bench.estimate", json.dumps(dataclasses.asdict(case))]
    settings = {"JAX_PLATFORMS": "cpu", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    settings |= {"JAX_ENABLE_COMPILATION_CACHE": "false"}  # the cache cannot read back programs for other machines
    variables = os.environ | LIBTPU_ENVIRONMENT | settings
    result = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def estimate(case: Case) -> dict:
    """Returns the cost of the step."""
    config, tpu_slice = _make_config(case), find_slice(case.topology)
    start = time.perf_counter()
    program = compile_train(config, tpu_slice)
    seconds = time.perf_counter() - start
    cost, model_flops = program.cost, train_flops(config.model, case.rows, max_train_predictions(config))
    return {
        "cycles": cost.cycles,
        "model_flops": model_flops,
        "mfu": round(model_flops * case.chip.clock / cost.cycles / case.chip.peak, 4),
        "regions": cost.regions,
        "bytes": cost.bytes,
        "flops": cost.flops,
        "collective_bytes": sum(part.bytes for part in cost.collectives),
        "collectives": sum(part.count for part in cost.collectives),
        "network_seconds": program.network_seconds,
        "unestimated": {part.kind: part.count for part in cost.unestimated},
        "memory": program.memory,
        "compile_seconds": round(seconds, 1),
        "libtpu": compiler_version(),
    }


def _make_config(case: Case) -> Config:
    config = freeze(CONFIGS[case.config].get_config())
    data = dataclasses.replace(config.data, batch_size=case.rows * len(find_slice(case.topology).devices))
    model = dataclasses.replace(
        config.model,
        attention=case.attention,
        length=case.length,
        layers=case.layers,
        kernel=case.kernel,
        unroll=0,
    )
    return dataclasses.replace(config, data=data, model=model)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.estimate", description=__doc__.partition("\n")[0])
    parser.add_argument("case", type=lambda text: Case(**json.loads(text)), help="the fields of a Case as JSON")
    print(json.dumps(estimate(parser.parse_args().case)))


if __name__ == "__main__":
    main()
