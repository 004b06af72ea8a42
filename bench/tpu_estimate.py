"""The compiled training step by the TPU compiler's own estimate, beside the numbers committed in tpu_estimate.json.

    .venv/bin/python -m bench.tpu_estimate

No noise and no TPU: the same source, jax and libtpu give the same cycles. Prints one JSON line a program, and what
differs from the committed numbers by more than 1%; --record commits the new ones. Two to five CPU minutes a program.

Cycles are the compiler's, of one core, by named region. What it does not estimate:
- splash attention is counted by its final schedule: instruction bundles a grid step, which the compiler dumps,
  times grid steps. Waits for memory are not in it.
- gathers, scatters, sorts and collectives are counted and not timed.
"""

import argparse
import dataclasses
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

from jax.sharding import AbstractDevice

from configs import base, base_fast
from symbert_jax.compile import compile_train
from symbert_jax.config import ATTENTIONS, Config, freeze
from symbert_jax.data.masking import Masking
from symbert_jax.model import kernels
from symbert_jax.model.flops import train_flops
from symbert_jax.slices import compiler_version, find_slice

RECORD = pathlib.Path(__file__).with_suffix(".json")
CONFIGS = {"base": base, "base_fast": base_fast}
TOPOLOGIES = ("v5e:4x4", "v6e:4x4", "v5p:2x2x2")
ROWS = 8  # a chip
TOLERANCE = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", default=CONFIGS, choices=CONFIGS)
    parser.add_argument("--topologies", nargs="+", default=TOPOLOGIES)
    parser.add_argument("--attentions", nargs="+", default=ATTENTIONS, choices=ATTENTIONS)
    parser.add_argument("--record", action="store_true", help="write the numbers to tpu_estimate.json")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(measure(*arguments.worker)))
        return
    committed = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for names in itertools.product(arguments.configs, arguments.topologies, arguments.attentions):
        found = in_a_process("--worker", *names)
        print(json.dumps(found), flush=True)
        program = " ".join(names)
        for field, old, new in differences(committed.get(program, {}), found):
            print(
                f"{program}: {field} was {old:,}, is {new:,} ({new / old - 1:+.1%})" if old else f"{program}: {field}"
            )
        if arguments.record:
            committed[program] = found
            RECORD.write_text(json.dumps(committed, indent=1) + "\n")


def in_a_process(*flags: str, **environment: str) -> dict:
    """The last JSON line of this script run with `flags`; the compiler reads its options only once in a process."""
    command = [sys.executable, "-m", "bench.tpu_estimate", *flags]
    quiet = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    quiet |= {"TPU_ACCELERATOR_TYPE": "v5litepod-16", "TPU_WORKER_HOSTNAMES": "localhost", "TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run(
        command, env=os.environ | quiet | environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(result.stdout.splitlines()[-1])


def measure(name: str, topology: str, attention: str) -> dict:
    """What the training step of a config costs a chip with `ROWS` rows."""
    if name == "splash":  # the kernel alone, whose schedule the process that asked reads
        return compile_splash(configured("base_fast", topology, attention), topology)
    config, target = configured(name, topology, attention), find_slice(topology)
    began = time.perf_counter()
    program = compile_train(config, target)
    seconds = time.perf_counter() - began
    splash = splash_cycles(topology, attention, config) if fused(config, topology) else 0
    cycles = program.cost.cycles + splash
    places = Masking((), config.model.length, config.data.mask_rate, config.seed).places
    flops = train_flops(config.model, ROWS, places)
    return {
        "program": f"{name} {topology} {attention}",
        "cycles": cycles,
        "mfu": round(flops * target.chip.clock / cycles / target.chip.peak, 4),
        "regions": program.cost.regions | {"splash": splash},
        "bytes": program.cost.bytes,
        "flops": program.cost.flops,
        "collective_bytes": sum(part.bytes for part in program.cost.collectives),
        "collectives": sum(part.count for part in program.cost.collectives),
        "unestimated": {part.kind: part.count for part in program.cost.unestimated},
        "memory": program.memory,
        "compile_seconds": round(seconds, 1),
        "libtpu": compiler_version(),
    }


def configured(name: str, topology: str, attention: str) -> Config:
    config = freeze(CONFIGS[name].get_config())
    data = dataclasses.replace(config.data, batch_size=ROWS * len(find_slice(topology).devices))
    return dataclasses.replace(config, data=data, model=dataclasses.replace(config.model, attention=attention))


def fused(config: Config, topology: str) -> bool:
    device = AbstractDevice(device_kind=find_slice(topology).devices[0].device_kind, num_cores=1, platform="tpu")
    return kernels.choose(config.model, device, config.model.length, config.model.length) == "splash"


def splash_cycles(topology: str, attention: str, config: Config) -> int:
    """Cycles of all layers' attention kernels, forward and backward, on one chip."""
    with tempfile.TemporaryDirectory() as folder:
        dump = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
        in_a_process("--worker", "splash", topology, attention, LIBTPU_INIT_ARGS=dump)
        files = list(pathlib.Path(folder).glob("*splash*schedule-analysis_final_bundles.txt"))
        bundles = [int(re.search(r"total scheduled bundles:\s+(\d+)", file.read_text())[1]) for file in files]
    assert len(bundles) == 2, f"forward and backward, found {len(bundles)} kernels"
    model = config.model
    steps = ROWS * model.heads * (model.length // kernels.block(model.length)) ** 2 // find_slice(topology).chip.cores
    return sum(bundles) * steps * model.layers


def compile_splash(config: Config, topology: str) -> dict:
    """Compiles the kernel alone, for one layer."""
    import jax
    import jax.numpy as jnp

    from symbert_jax.sharding import make_mesh, spec

    model, mesh = config.model, make_mesh(config.mesh, list(find_slice(topology).devices))
    shape = config.data.batch_size, model.length, model.heads, model.dim // model.heads

    def total(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return jnp.sum(kernels.splash(q, k, v, None, interpret=False).astype(jnp.float32))

    with jax.set_mesh(mesh):
        part = jax.ShapeDtypeStruct(shape, model.dtype, sharding=jax.NamedSharding(mesh, spec("BTNH")))
        jax.jit(jax.grad(total, (0, 1, 2))).lower(part, part, part).compile()
    return {}


def differences(old: dict, new: dict) -> list[tuple[str, float, float]]:
    """(field, old, new) of every number that moved by more than `TOLERANCE`; a kind without estimate that is new."""
    flat = [
        (field, old[field], new[field])
        for field in ("cycles", "bytes", "flops", "collective_bytes", "collectives", "memory")
        if field in old
    ]
    for part in ("regions", "unestimated"):
        fields = old.get(part, {}).keys() | new[part].keys() if part in old else ()
        flat += [(f"{part} {field}", old[part].get(field, 0), new[part].get(field, 0)) for field in sorted(fields)]
    return [
        (field, was, now)
        for field, was, now in flat
        if abs(now - was) > TOLERANCE * max(was, old["cycles"] / 100 if field.startswith("regions") else 0)
    ]


if __name__ == "__main__":
    main()
