"""What random bits cost: dropout of one array, forward and backward, by three generators.

    .venv/bin/python -m bench.dropout

Prints one JSON line: for each generator the median of alternating turns on the device that is here, in ms, and for a
TPU v5e the compiler's cycles and HBM bytes (a generator's own instruction has no estimate there and is counted as
nothing, which flatters rbg). The first shape is that of a residual branch, the second of attention's probabilities.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")

import jax
import jax.numpy as jnp

from bench.contenders import in_turns
from bench.record import record
from symbert_jax.config import MeshConfig
from symbert_jax.estimate.cost import program_cost
from symbert_jax.estimate.slices import find_slice
from symbert_jax.model.layers import dropout
from symbert_jax.sharding import make_mesh

SHAPES = ((8, 512, 768), (8, 12, 512, 512))
RATE = 0.1


def by_jax(x: jax.Array, key: jax.Array) -> jax.Array:
    return jnp.where(jax.random.bernoulli(key, 1 - RATE, x.shape), x / (1 - RATE), 0)


def step(drop, x: jax.Array, key: jax.Array) -> jax.Array:
    """The gradient of a loss that needs the output too."""
    return jax.grad(lambda x: jnp.sum(jnp.square(drop(x, key).astype(jnp.float32))))(x)


GENERATORS = {
    "ours": ("threefry2x32", lambda x, key: dropout(x, RATE, key)),
    "threefry": ("threefry2x32", by_jax),
    "rbg": ("rbg", by_jax),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu", help="cpu | gpu")
    arguments = parser.parse_args()
    target = find_slice("v5e:2x2")
    result = {"device": jax.devices(arguments.device)[0].device_kind, "shapes": {}}
    for shape in SHAPES:
        found = {name: {"v5e": cycles(target, shape, name)} for name in GENERATORS}
        for name, milliseconds in measure(arguments.device, shape, arguments.rounds).items():
            found[name]["ms"] = milliseconds
        result["shapes"]["x".join(map(str, shape))] = found
    record("dropout", **result)


def cycles(target, shape: tuple[int, ...], name: str) -> dict:
    impl, drop = GENERATORS[name]
    mesh = make_mesh(MeshConfig(), list(target.devices[:1]))
    with jax.set_mesh(mesh):
        whole = jax.NamedSharding(mesh, jax.P())
        x = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=whole)
        key = jax.eval_shape(lambda: jax.random.key(0, impl=impl))
        key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=whole)
        compiled = jax.jit(lambda x, key: step(drop, x, key)).lower(x, key).compile()
    cost = program_cost(compiled.as_text(), 1)
    return {"cycles": cost.cycles, "bytes": cost.bytes}


def measure(device: str, shape: tuple[int, ...], rounds: int) -> dict[str, float]:
    mesh = make_mesh(MeshConfig(), jax.devices(device)[:1])
    with jax.set_mesh(mesh):
        x = jnp.ones(shape, jnp.bfloat16)
        runs, times = {}, {name: [] for name in GENERATORS}
        for name, (impl, drop) in GENERATORS.items():
            key, compiled = jax.random.key(0, impl=impl), jax.jit(lambda x, key, drop=drop: step(drop, x, key))
            runs[name] = lambda compiled=compiled, key=key: jax.block_until_ready(compiled(x, key))
            runs[name]()
        for name in in_turns(rounds, list(runs)):
            began = time.perf_counter()
            runs[name]()
            times[name].append(1e3 * (time.perf_counter() - began))
    return {name: round(statistics.median(values), 2) for name, values in times.items()}


if __name__ == "__main__":
    main()
