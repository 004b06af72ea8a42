"""A training step compiled for TPUs that nobody has at hand: what the compiler estimates it to cost a chip.

No noise and no TPU: the same source, jax and libtpu give the same cycles. They are of one core, by named region. What
the compiler does not estimate:

- splash attention is counted by its final schedule: instruction bundles a grid step, which the compiler dumps,
  times grid steps. Waits for memory are not in it.
- gathers, scatters, sorts and collectives are counted and not timed.
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

from configs import base, base_fast
from symbert_jax.chips import TPUS, Tpu
from symbert_jax.config import Config, freeze
from symbert_jax.data.masking import max_predictions
from symbert_jax.estimate.cost import PALLAS
from symbert_jax.estimate.programs import compile_train
from symbert_jax.estimate.slices import compiler_version, find_slice
from symbert_jax.model import kernels
from symbert_jax.model.flops import train_flops

CONFIGS = {"base": base, "base_fast": base_fast}


@dataclasses.dataclass(frozen=True)
class Case:
    """A config, where it runs, and what of it is another size; all layers unrolled."""

    config: str
    topology: str
    attention: str
    rows: int = 8  # a chip
    length: int = 512
    layers: int = 12

    @property
    def name(self) -> str:
        sizes = ((field.name, getattr(self, field.name), field.default) for field in dataclasses.fields(self)[3:])
        changed = [f"{name}={size}" for name, size, usual in sizes if size != usual]
        return " ".join([self.config, self.topology, self.attention, *changed])

    @property
    def chip(self) -> Tpu:
        return TPUS[self.topology.partition(":")[0]]


def estimates(cases: Sequence[Case], jobs: int) -> Iterator[tuple[Case, dict]]:
    """Compiles them, `jobs` at a time, each in a process of its own: libtpu reads its options once in a process."""
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        yield from zip(cases, pool.map(estimate, cases), strict=True)


def estimate(case: Case) -> dict:
    found = _in_a_process(case, "step")
    splash = _splash_cycles(case) if PALLAS in found["unestimated"] else 0
    cycles = found["cycles"] + splash
    return found | {
        "cycles": cycles,
        "mfu": round(found["model_flops"] * case.chip.clock / cycles / case.chip.peak, 4),
        "regions": found["regions"] | {"splash": splash},
    }


def _in_a_process(case: Case, part: str, **environment: str) -> dict:
    command = [sys.executable, "-m", "bench.estimate", part, json.dumps(dataclasses.asdict(case))]
    quiet = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    quiet |= {"TPU_ACCELERATOR_TYPE": "v5litepod-16", "TPU_WORKER_HOSTNAMES": "localhost", "TF_CPP_MIN_LOG_LEVEL": "3"}
    quiet |= {"JAX_ENABLE_COMPILATION_CACHE": "false"}  # it cannot read programs for other machines back
    result = subprocess.run(
        command, env=os.environ | quiet | environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(result.stdout.splitlines()[-1])


def compile_step(case: Case) -> dict:
    """What the compiler says of the whole step, splash not in its cycles."""
    config, target = _configured(case), find_slice(case.topology)
    began = time.perf_counter()
    program = compile_train(config, target)
    seconds = time.perf_counter() - began
    return {
        "cycles": program.cost.cycles,
        "model_flops": train_flops(config.model, case.rows, max_predictions(case.length, config.data.mask_rate)),
        "regions": program.cost.regions,
        "bytes": program.cost.bytes,
        "flops": program.cost.flops,
        "collective_bytes": sum(part.bytes for part in program.cost.collectives),
        "collectives": sum(part.count for part in program.cost.collectives),
        "network_seconds": program.network_seconds,
        "unestimated": {part.kind: part.count for part in program.cost.unestimated},
        "memory": program.memory,
        "compile_seconds": round(seconds, 1),
        "libtpu": compiler_version(),
    }


def compile_splash(case: Case) -> dict:
    """Compiles the attention kernel alone, for one layer."""
    import jax
    import jax.numpy as jnp

    from symbert_jax.sharding import make_mesh, spec

    config = _configured(case)
    model, mesh = config.model, make_mesh(config.mesh, list(find_slice(case.topology).devices))
    shape = config.data.batch_size, model.length, model.heads, model.dim // model.heads

    def total(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return jnp.sum(kernels.splash(q, k, v, None, interpret=False).astype(jnp.float32))

    with jax.set_mesh(mesh):
        part = jax.ShapeDtypeStruct(shape, model.dtype, sharding=jax.NamedSharding(mesh, spec("BTNH")))
        jax.jit(jax.grad(total, (0, 1, 2))).lower(part, part, part).compile()
    return {}


def _splash_cycles(case: Case) -> int:
    """Cycles of all layers' attention kernels, forward and backward, on one chip."""
    bundles = _splash_bundles(dataclasses.replace(case, attention="standard", layers=1))  # whatever these are
    blocks = (case.length // kernels.block(case.length)) ** 2
    heads = CONFIGS[case.config].get_config().model.heads
    return bundles * case.rows * heads * blocks // case.chip.cores * case.layers


@functools.cache
def _splash_bundles(case: Case) -> int:
    """Instruction bundles of a grid step of the forward and of the backward kernel together."""
    with tempfile.TemporaryDirectory() as folder:
        dump = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
        _in_a_process(case, "splash", LIBTPU_INIT_ARGS=dump)
        files = list(pathlib.Path(folder).glob("*splash*schedule-analysis_final_bundles.txt"))
        bundles = [int(re.search(r"total scheduled bundles:\s+(\d+)", file.read_text())[1]) for file in files]
    assert len(bundles) == 2, f"forward and backward, found {len(bundles)} kernels"
    return sum(bundles)


def _configured(case: Case) -> Config:
    config = freeze(CONFIGS[case.config].get_config())
    data = dataclasses.replace(config.data, batch_size=case.rows * len(find_slice(case.topology).devices))
    model = dataclasses.replace(
        config.model, attention=case.attention, length=case.length, layers=case.layers, unroll=0
    )
    return dataclasses.replace(config, data=data, model=model)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.estimate", description=__doc__.partition("\n")[0])
    parser.add_argument("part", choices=("step", "splash"))
    parser.add_argument("case", type=lambda text: Case(**json.loads(text)), help="the fields of a Case as JSON")
    flags = parser.parse_args()
    print(json.dumps({"step": compile_step, "splash": compile_splash}[flags.part](flags.case)))


if __name__ == "__main__":
    main()
