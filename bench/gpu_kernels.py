"""Attention kernels of a GPU: their errors and their times, beside XLA.

    .venv/bin/python -m bench.gpu_kernels

Errors are those of the output and of the three gradients against XLA in float32 with exact products: the largest
difference, as a fraction of the largest value. Rows have padding and several documents. `mask_differences` counts the
probabilities that XLA drops and `triton` keeps, or the reverse. Times are in ms, of the forward pass and of both passes
of attention alone, in bfloat16; `triton` is measured with several tilings. A kernel that fails has its error instead.

`--tiny` takes small arrays and runs `triton` without a GPU.
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import os
import statistics
import time
from collections.abc import Callable, Collection

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import reshard

from bench.record import record
from symbert_jax.config import MeshConfig
from symbert_jax.model import kernels
from symbert_jax.model.triton import Tile, Tiling
from symbert_jax.sharding import device, make_mesh, spec

DROPOUT_RATE = 0.1
RUNS = 10  # of a program between two readings of the clock
TILINGS = {
    "64": Tiling(Tile(64, 64), keys=Tile(64, 64), queries=Tile(64, 64)),
    "64, smaller backward": Tiling(Tile(64, 64), keys=Tile(queries=32, keys=64), queries=Tile(64, 32)),
    "128, 8 warps": Tiling(Tile(128, 64, 8), keys=Tile(queries=64, keys=128, warps=8), queries=Tile(128, 64, 8)),
}
TINY_TILINGS = {"32": Tiling(Tile(32, 32), keys=Tile(32, 32), queries=Tile(32, 32))}


@dataclasses.dataclass(frozen=True)
class Case:
    """The shape of q, k and v, their type, and what attention does with them."""

    kernel: str
    batch: int
    length: int
    heads: int
    width: int
    dtype: str = "bfloat16"
    dropout_rate: float = 0.0
    tiling: Tiling | None = None
    has_segments: bool = True
    precision: str = "default"
    is_forward: bool = False  # whether only the forward pass runs

    def attend(self, q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array, key: jax.Array) -> jax.Array:
        segments = segments if self.has_segments else None
        match self.kernel:
            case "xla":
                return kernels.xla(q, k, v, segments, self.dropout_rate, key)
            case "cudnn":
                return kernels.cudnn(q, k, v, segments)
            case "triton":
                interpret = device().platform != "gpu"
                arguments = (q, k, v, segments, self.dropout_rate, key)
                return kernels.triton(*arguments, interpret=interpret, tiling=self.tiling)

    def run(self, q: jax.Array, k: jax.Array, v: jax.Array, dout: jax.Array, segments: jax.Array, key: jax.Array):
        """Returns the output and, unless only the forward pass runs, the gradients of q, k and v."""
        out, backward = jax.vjp(lambda *qkv: self.attend(*qkv, segments, key), q, k, v)
        return (out,) if self.is_forward else (out, *backward(dout))

    def arguments(self) -> tuple[jax.Array, ...]:
        return make_arguments(self.batch, self.length, self.heads, self.width, self.dtype)


@functools.cache
def make_arguments(batch: int, length: int, heads: int, width: int, dtype: str) -> tuple[jax.Array, ...]:
    """Returns random q, k, v and dout, which are exact in bfloat16, the segments of rows, and a key."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((batch, length, heads, width), np.float32) for _ in range(4)]
    position, row = np.arange(length), np.arange(batch)[:, None]
    segments = 1 + position * (1 + row % 3) // length
    segments = np.where(position < length - length * (row % 4) // 5, segments, 0)
    return (
        *(reshard(jnp.asarray(x, "bfloat16").astype(dtype), spec("BTNH")) for x in arrays),
        reshard(jnp.asarray(segments, jnp.int32), spec("BS")),
        jax.random.key(0),
    )


Program = Callable[..., tuple[jax.Array, ...]] | str  # a compiled program, or the error of its compilation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small arrays, on a CPU")
    tiny = parser.parse_args().tiny
    checks, timings = checked_cases(tiny), timed_cases(tiny)
    masks = [Case(kernel, 2, 128, 2, 128, "float32", DROPOUT_RATE, is_forward=True) for kernel in ("xla", "triton")]
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    with jax.set_mesh(mesh):
        programs = compile_all({*checks, *map(reference, checks), *timings, *masks}, mesh)
        record(
            "gpu_kernels",
            device=jax.devices()[0].device_kind,
            errors={describe(case): caught(measure_errors, case, programs) for case in checks},
            mask_differences=caught(count_mask_differences, masks, programs),
            milliseconds=measure_times(timings, programs, rounds=1 if tiny else 5),
        )


def checked_cases(tiny: bool) -> list[Case]:
    if tiny:
        return [
            Case("triton", 2, 64, 2, 32, "float32", rate, tiling=TINY_TILINGS["32"]) for rate in (0.0, DROPOUT_RATE)
        ]
    shape = (4, 512, 4)
    return [
        *(Case(kernel, *shape, 64) for kernel in ("xla", "cudnn", "triton")),
        *(Case(kernel, *shape, 64, dropout_rate=DROPOUT_RATE) for kernel in ("xla", "triton")),
        *(Case(kernel, *shape, 64, "float32", DROPOUT_RATE) for kernel in ("xla", "triton")),
        Case("triton", *shape, 64, "float32", DROPOUT_RATE, precision="highest"),
        *(
            Case("triton", *shape, width, dtype, DROPOUT_RATE)
            for width in (32, 128)
            for dtype in ("bfloat16", "float32")
        ),
        Case("triton", *shape, 64, has_segments=False),
        Case("triton", 4, 192, 4, 64, dropout_rate=DROPOUT_RATE),  # a length that 128 does not divide
        Case("triton", 1, 8192, 1, 64, dropout_rate=DROPOUT_RATE),
    ]


def timed_cases(tiny: bool) -> list[Case]:
    shapes = [(2, 64, 2, 32)] if tiny else [(32, 512, 12, 64), (8, 2048, 12, 64)]
    tilings = list((TINY_TILINGS if tiny else TILINGS).values())
    contenders = [
        *(("xla", rate, None) for rate in (0.0, DROPOUT_RATE)),
        *([] if tiny else [("cudnn", 0.0, None)]),
        ("triton", 0.0, tilings[0]),
        *(("triton", DROPOUT_RATE, tiling) for tiling in tilings),
    ]
    return [
        Case(kernel, *shape, dropout_rate=rate, tiling=tiling, has_segments=False, is_forward=is_forward)
        for shape in shapes
        for kernel, rate, tiling in contenders
        for is_forward in (True, False)
    ]


def reference(case: Case) -> Case:
    return dataclasses.replace(case, kernel="xla", dtype="float32", precision="highest", tiling=None)


def describe(case: Case) -> str:
    names = {tiling: name for name, tiling in (TILINGS | TINY_TILINGS).items()}
    parts = [case.kernel, f"{case.batch}x{case.length}x{case.heads}x{case.width}", case.dtype]
    if case.precision != "default":
        parts.append(case.precision)
    if case.dropout_rate:
        parts.append("dropout")
    if case.has_segments:
        parts.append("segments")
    if case.tiling:
        parts.append(f"tiling {names[case.tiling]}")
    return ", ".join(parts)


def compile_all(cases: Collection[Case], mesh: jax.sharding.Mesh) -> dict[Case, Program]:
    """Compiles the programs of all cases, several at a time."""

    def compile_one(case: Case) -> Program:
        with jax.set_mesh(mesh), jax.default_matmul_precision(case.precision):
            return jax.jit(case.run).lower(*case.arguments()).compile()

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
        return dict(zip(cases, threads.map(functools.partial(caught, compile_one), cases), strict=True))


def caught(function: Callable, *arguments: object):
    """Returns what the function returns or, if it fails, its error: other measurements go on."""
    try:
        return function(*arguments)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:300]}"


def run(program: Program, arguments: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    if isinstance(program, str):
        raise RuntimeError(program)
    return jax.block_until_ready(program(*arguments))


def measure_errors(case: Case, programs: dict[Case, Program]) -> dict[str, float]:
    wanted = run(programs[reference(case)], reference(case).arguments())
    found = run(programs[case], case.arguments())
    return {
        name: float(f"{jnp.max(jnp.abs(x.astype(jnp.float32) - y)) / jnp.max(jnp.abs(y)):.2e}")
        for name, x, y in zip(("out", "dq", "dk", "dv"), found, wanted, strict=True)
    }


def count_mask_differences(cases: list[Case], programs: dict[Case, Program]) -> int:
    """With equal scores and the identity as values, the output of a kernel is its mask, scaled."""
    q, _, _, dout, segments, key = cases[0].arguments()
    identity = jnp.broadcast_to(jnp.eye(len(q[0]))[:, None], q.shape, out_sharding=spec("BTNH"))
    masks = [run(programs[case], (0 * q, 0 * q, identity, dout, 0 * segments + 1, key))[0] > 0 for case in cases]
    return int(jnp.sum(masks[0] != masks[1]))


def measure_times(cases: list[Case], programs: dict[Case, Program], rounds: int) -> dict[str, dict[str, object]]:
    """Returns the median times of the forward pass and of both passes, in ms."""
    times: dict[str, dict[str, object]] = {}
    for case in cases:
        part = "forward" if case.is_forward else "both"
        times.setdefault(describe(case), {})[part] = caught(measure_time, case, programs[case], rounds)
    return times


def measure_time(case: Case, program: Program, rounds: int) -> float:
    arguments, times = case.arguments(), []
    run(program, arguments)
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(RUNS):
            outputs = program(*arguments)
        jax.block_until_ready(outputs)
        times.append(1e3 * (time.perf_counter() - start) / RUNS)
    return round(statistics.median(times), 3)


if __name__ == "__main__":
    main()
