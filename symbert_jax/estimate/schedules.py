"""The instructions that the TPU compiler schedules for the Pallas kernels of attention.

libtpu reads the options for a dump of them once per process, and then dumps all that it compiles. So the attention of
one layer is compiled alone, in a process of its own, which takes about ten seconds.
"""

import functools
import multiprocessing
import os
import re
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp

from symbert_jax.config import MeshConfig, ModelConfig
from symbert_jax.estimate.slices import find_slice
from symbert_jax.model import kernels
from symbert_jax.model.attention import find_variant
from symbert_jax.model.parameters import sizes
from symbert_jax.sharding import make_mesh, spec


class UnknownSchedule(Exception):
    """The compiler has left no schedule of a kernel, or one that is not as expected."""


@dataclass(frozen=True)
class Schedule:
    """The scheduled instructions of a kernel, as the compiler dumps them: a line for each bundle, with its address."""

    text: str

    @functools.cached_property
    def _bundles(self) -> list[str]:
        return re.findall(r"^ *0x[0-9a-f]+ .*", self.text, re.MULTILINE)

    @property
    def bundles(self) -> int:
        """The number of bundles."""
        return len(self._bundles)

    def branches(self, number: int) -> list[int]:
        """Returns the bundles in each branch of a grid step, in their order; raises if there are not so many.

        A jump over a branch is conditional and leads forward. The jump over the whole step encloses the others; it is
        for steps of the pipeline that only load or store. The shortest jumps in it wait for copies.
        """
        starts, jumps = dict[str, int](), list[tuple[int, str]]()
        for address, bundle in enumerate(self._bundles):
            for region in re.findall(r"Start(?:/End empty)? region (\d+)", bundle):
                starts.setdefault(region, address)
            for region in re.findall(r"sbr\.rel \(!?%\w+\) target = \$region(\d+)", bundle):
                jumps.append((address, region))
        over = [range(address + 1, starts[region]) for address, region in jumps if starts.get(region, 0) > address + 1]
        step = max(over, key=len, default=range(0))
        inside = sorted((jump for jump in over if jump != step and jump[0] in step), key=len)
        if len(inside) < number:
            raise UnknownSchedule(f"a grid step with {len(inside)} branches instead of {number}")
        return [len(jump) for jump in sorted(inside[len(inside) - number :], key=lambda jump: jump[0])]


@functools.cache  # layers share a schedule, and so do batch sizes
def find_schedules(
    model: ModelConfig, topology: str, kernel: str, heads: int, window: int, has_segments: bool, is_training: bool
) -> list[Schedule]:
    """Returns the schedule of the forward kernel and, if `is_training`, that of the backward kernel.

    topology: the slice, see `find_slice`.
    kernel: short | splash.
    heads: of one device.
    window: of `windows`, that of the layer.
    has_segments: whether a token sees only some tokens of its row.

    Raises:
      UnknownSchedule: the compiler has left none, or those of other kernels.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = folder, model, topology, heads, window, has_segments, is_training
        process = multiprocessing.get_context("spawn").Process(target=_dump, args=arguments, daemon=True)
        process.start()
        process.join()
        if process.exitcode:
            raise UnknownSchedule(f"the compiler has ended with exit code {process.exitcode}")
        files = sorted(Path(folder).glob(f"*{kernel}*[0-9]-final_bundles.txt"), key=_is_backward)
        # beside the kernels of the symmetric form are those that run where it would underflow
        files = [file for file in files if "_symmetric_" in file.name] or files
        schedules = [Schedule(file.read_text()) for file in files]
    if len(schedules) != 1 + is_training:
        raise UnknownSchedule(f"{len(schedules)} kernels instead of {1 + is_training}")
    return schedules


def _dump(
    folder: str, model: ModelConfig, topology: str, heads: int, window: int, has_segments: bool, is_training: bool
) -> None:
    """Compiles the attention of one layer in a new process; the compiler writes what it has scheduled to `folder`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits for this one
    dump = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
    os.environ["LIBTPU_INIT_ARGS"] = f"{os.environ.get('LIBTPU_INIT_ARGS', '')} {dump}"
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)  # a program from the cache would leave no dump
    target = find_slice(topology)
    key = jax.random.key(0) if is_training else None

    def attend(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None) -> jax.Array:
        is_symmetric = find_variant(model).is_symmetric
        mixed = kernels.attend(model, q, k, v, segments, key, window, is_symmetric)
        return jnp.sum(mixed.astype(jnp.float32))

    mesh = make_mesh(MeshConfig(), list(target.devices))
    with jax.set_mesh(mesh):
        rows = mesh.size * target.chip.cores  # so that all cores have work

        def array(dims: str, *shape: int, dtype: str = model.dtype) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(shape, dtype, sharding=jax.NamedSharding(mesh, spec(dims)))

        q = array("BTNH", rows, model.length, heads, sizes(model)["Q"])
        v = array("BTNH", rows, model.length, heads, sizes(model)["H"])
        segments = array("BS", rows, model.length, dtype="int32") if has_segments else None
        step = jax.grad(attend, (0, 1, 2)) if is_training else attend
        jax.jit(step).lower(q, q, v, segments).compile()


def _is_backward(file: Path) -> bool:
    """Returns whether a dump is of a backward kernel, which splash names after its gradients of keys and values."""
    return "backward" in file.name or "dkv" in file.name
