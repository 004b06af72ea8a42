"""Estimates of a training step per chip by the TPU compiler, for a config in CONFIGS, any slice and size; needs no TPU.

Cycles are those of one core, in all and by named region. The same source, jax and libtpu give the same cycles. The
compiler has no estimate for some work:

- the Pallas kernels of attention: their cycles are the instruction bundles of their final schedule, which the compiler
  dumps, times the grid steps; waits for memory are not included.
- gathers, scatters, sorts and collectives: their number is given, but their time is not in the cycles.
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
from symbert_jax.data.masking import max_train_predictions
from symbert_jax.estimate.cost import PALLAS
from symbert_jax.estimate.programs import compile_train
from symbert_jax.estimate.slices import compiler_version, find_slice
from symbert_jax.model import kernels
from symbert_jax.model.attention import find_variant
from symbert_jax.model.flops import train_flops
from symbert_jax.model.short.plan import Plan

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
    """Yields each case with its cost. Compiles `jobs` cases at a time.

    Each has a process of its own, as libtpu reads its options once per process.
    """
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        yield from zip(cases, pool.map(estimate, cases), strict=True)


def estimate(case: Case) -> dict:
    """Returns the cost of the step, with the cycles of the attention kernel."""
    cost = _run_in_process(case, "step")
    kernel = _kernel_cycles(case) if PALLAS in cost["unestimated"] else 0
    cycles = cost["cycles"] + kernel
    return cost | {
        "cycles": cycles,
        "mfu": round(cost["model_flops"] * case.chip.clock / cycles / case.chip.peak, 4),
        "regions": cost["regions"] | {"kernel": kernel},
    }


def _run_in_process(case: Case, part: str, **environment: str) -> dict:
    """Runs `compile_step` or `compile_kernel` in a new process; returns its result."""
    command = [sys.executable, "-m", "bench.estimate", part, json.dumps(dataclasses.asdict(case))]
    settings = {"JAX_PLATFORMS": "cpu", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    settings |= {"JAX_ENABLE_COMPILATION_CACHE": "false"}  # the cache cannot read back programs for other machines
    variables = os.environ | LIBTPU_ENVIRONMENT | settings | environment
    result = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def compile_step(case: Case) -> dict:
    """Returns the cost of the whole step; `cycles` are without the attention kernel."""
    config, tpu_slice = _make_config(case), find_slice(case.topology)
    start = time.perf_counter()
    program = compile_train(config, tpu_slice)
    seconds = time.perf_counter() - start
    return {
        "cycles": program.cost.cycles,
        "model_flops": train_flops(config.model, case.rows, max_train_predictions(config)),
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


def compile_kernel(case: Case) -> dict:
    """Compiles the attention of one layer alone, forward and backward, for the dumps of `_kernel_bundles`.

    Returns the name of the kernel.
    """
    import jax
    import jax.numpy as jnp

    from symbert_jax.sharding import device, make_mesh, spec

    config = _make_config(case)
    model, mesh = config.model, make_mesh(config.mesh, list(find_slice(case.topology).devices))
    shape = config.data.batch_size, model.length, model.heads, model.dim // model.heads

    def sum_of_outputs(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        mixed = kernels.attend(model, q, k, v, None, jax.random.key(0), is_symmetric=find_variant(model).is_symmetric)
        return jnp.sum(mixed.astype(jnp.float32))

    with jax.set_mesh(mesh):
        array = jax.ShapeDtypeStruct(shape, model.dtype, sharding=jax.NamedSharding(mesh, spec("BTNH")))
        jax.jit(jax.grad(sum_of_outputs, (0, 1, 2))).lower(array, array, array).compile()
        return {"kernel": kernels.choose(model, device(), model.length, model.length)}


def _kernel_cycles(case: Case) -> int:
    """Returns the cycles of the attention kernels of all layers, forward and backward, on one chip."""
    model, cores = _make_config(case).model, case.chip.cores
    rate = model.attention_dropout
    plan = Plan(rows=case.rows, heads=model.heads, length=case.length, device_cores=cores, dropout_rate=rate)
    # the kernels are the same for all layers, and for all attentions but for the symmetric form
    attention = "symmetric" if case.attention == "symmetric" and plan.has_symmetric_form else "standard"
    name, forward, backward = _kernel_bundles(dataclasses.replace(case, attention=attention, layers=1))
    if name == "short" and attention == "symmetric":
        cycles = sum(_symmetric_bundles(plan, text) for text in (forward, backward)) * plan.symmetric_groups // cores
    elif name == "short":
        cycles = _bundles(forward) * (plan.steps + 1) + _bundles(backward) * plan.steps
    else:
        blocks = (case.length // kernels.block_size(case.length)) ** 2
        cycles = (_bundles(forward) + _bundles(backward)) * case.rows * model.heads * blocks // cores
    return cycles * case.layers


@functools.cache
def _kernel_bundles(case: Case) -> tuple[str, str, str]:
    """Returns the name of the kernel and the instruction bundles of one grid step, forward and backward, as texts."""
    with tempfile.TemporaryDirectory() as folder:
        dump = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
        name = _run_in_process(case, "kernel", LIBTPU_INIT_ARGS=dump)["kernel"]
        files = sorted(pathlib.Path(folder).glob(f"*{name}*[0-9]-final_bundles.txt"), key=_is_backward)
        # beside the kernels of the symmetric form are those that run where it would underflow
        files = [file for file in files if "symmetric" in file.name] or files
        texts = [file.read_text() for file in files]
    assert len(texts) == 2, f"expected a forward and a backward kernel, found {len(texts)}"
    return name, *texts


def _bundles(text: str) -> int:
    """Returns the number of bundles, given their text."""
    return len(re.findall(r"^ *0x[0-9a-f]+ ", text, re.MULTILINE))


def _symmetric_bundles(plan: Plan, text: str) -> int:
    """Returns the bundles that all grid steps of a group of heads execute in a kernel of the symmetric form.

    With several blocks, a grid step has four branches: for the first pair of blocks, for a block and itself, for two
    blocks, and for the last pair.
    """
    count = plan.symmetric_blocks
    if count == 1:
        return _bundles(text)
    starts, sizes = dict[str, int](), dict[str, int]()  # of the regions that are longer than a few bundles, in order
    for line in re.findall(r"^ *0x.*", text, re.MULTILINE):
        address = int(line.split()[0].partition(":")[0].removesuffix("PF"), 16)
        for kind, region in re.findall(r"(Start|End) region (\d+)", line):
            if kind == "Start":
                starts[region] = address
            elif region in starts:
                sizes[region] = address + 1 - starts[region]
    ends = {region: starts[region] + size for region, size in sizes.items()}
    long = [region for region in sizes if sizes[region] > 60]
    leaves = [a for a in long if not any(b != a and starts[a] <= starts[b] and ends[b] <= ends[a] for b in long)]
    branches = [sizes[region] for region in sorted(leaves, key=starts.__getitem__)]
    assert len(branches) == 4, f"expected four branches, found {branches}"
    first, same, different, last = branches
    rest = _bundles(text) - sum(branches)
    return first + count * same + count * (count - 1) // 2 * different + last + plan.symmetric_pairs * rest


def _is_backward(file: pathlib.Path) -> bool:
    """Returns whether a dump is of a backward kernel, which splash names after its gradients of keys and values."""
    return "backward" in file.name or "dkv" in file.name


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
    parser.add_argument("part", choices=("step", "kernel"))
    parser.add_argument("case", type=lambda text: Case(**json.loads(text)), help="the fields of a Case as JSON")
    flags = parser.parse_args()
    print(json.dumps({"step": compile_step, "kernel": compile_kernel}[flags.part](flags.case)))


if __name__ == "__main__":
    main()
