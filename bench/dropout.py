"""Cost of random bits: dropout of one array, forward and backward, with three generators.

    .venv/bin/python -m bench.dropout

Records for each generator the median time of alternating turns on a device of this machine, in ms, and the TPU
compiler's cycles and HBM bytes for a v5e. The cycles leave out the instruction that generates rbg's bits, for which the
compiler has no estimate. The first shape is that of a residual branch, the second that of attention probabilities.
"""

import argparse
import os
import statistics
import time

import jax
import jax.numpy as jnp

from bench.contenders import in_turns
from bench.estimate import LIBTPU_ENVIRONMENT
from bench.record import record
from symbert_jax.config import MeshConfig
from symbert_jax.estimate.cost import program_cost
from symbert_jax.estimate.slices import Slice, find_slice
from symbert_jax.model.layers import dropout
from symbert_jax.sharding import make_mesh

SHAPES = ((8, 512, 768), (8, 12, 512, 512))
DROPOUT_RATE = 0.1


def jax_dropout(x: jax.Array, key: jax.Array) -> jax.Array:
    return jnp.where(jax.random.bernoulli(key, 1 - DROPOUT_RATE, x.shape), x / (1 - DROPOUT_RATE), 0)


def gradient(drop, x: jax.Array, key: jax.Array) -> jax.Array:
    """Returns the gradient of a loss whose backward pass needs the output of `drop`."""
    return jax.grad(lambda x: jnp.sum(jnp.square(drop(x, key).astype(jnp.float32))))(x)


GENERATORS = {  # by name: the generator of the key in JAX, and the dropout
    "ours": ("threefry2x32", lambda x, key: dropout(x, DROPOUT_RATE, key)),
    "threefry": ("threefry2x32", jax_dropout),
    "rbg": ("rbg", jax_dropout),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="measurements per generator")
    parser.add_argument("--device", default="cpu", help="cpu | gpu")
    arguments = parser.parse_args()
    os.environ.update(LIBTPU_ENVIRONMENT)
    tpu_slice = find_slice("v5e:2x2")
    result = {"device": jax.devices(arguments.device)[0].device_kind, "shapes": {}}
    for shape in SHAPES:
        costs = {name: {"v5e": estimate_cost(tpu_slice, shape, name)} for name in GENERATORS}
        for name, milliseconds in measure(arguments.device, shape, arguments.rounds).items():
            costs[name]["ms"] = milliseconds
        result["shapes"]["x".join(map(str, shape))] = costs
    record("dropout", **result)


def estimate_cost(tpu_slice: Slice, shape: tuple[int, ...], name: str) -> dict[str, float]:
    """Returns the compiler's cycles and HBM bytes of a generator for an array of this shape on one chip."""
    impl, drop = GENERATORS[name]
    mesh = make_mesh(MeshConfig(), list(tpu_slice.devices[:1]))
    with jax.set_mesh(mesh):
        replicated = jax.NamedSharding(mesh, jax.P())
        x = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=replicated)
        key = jax.eval_shape(lambda: jax.random.key(0, impl=impl))
        key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=replicated)
        compiled = jax.jit(lambda x, key: gradient(drop, x, key)).lower(x, key).compile()
    cost = program_cost(compiled.as_text(), num_devices=1)
    return {"cycles": cost.cycles, "bytes": cost.bytes}


def measure(device: str, shape: tuple[int, ...], rounds: int) -> dict[str, float]:
    """Returns the median time of each generator for an array of this shape, in ms."""
    mesh = make_mesh(MeshConfig(), jax.devices(device)[:1])
    with jax.set_mesh(mesh):
        x = jnp.ones(shape, jnp.bfloat16)
        run, times = {}, {name: [] for name in GENERATORS}
        for name, (impl, drop) in GENERATORS.items():
            key, compiled = jax.random.key(0, impl=impl), jax.jit(lambda x, key, drop=drop: gradient(drop, x, key))
            run[name] = lambda compiled=compiled, key=key: jax.block_until_ready(compiled(x, key))
            run[name]()
        for name in in_turns(rounds, list(run)):
            start = time.perf_counter()
            run[name]()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: round(statistics.median(values), 2) for name, values in times.items()}


if __name__ == "__main__":
    main()
