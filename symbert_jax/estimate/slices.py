"""Finds a TPU slice by the name of its topology, with devices to compile for; needs no TPU."""

import dataclasses
import functools
import importlib.metadata
import math
import os
import re
from typing import Any

import jax
from jax.experimental import topologies

from symbert_jax.chips import TPUS, Tpu
from symbert_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Slice:
    """A TPU slice."""

    name: str  # the name of its topology, for example v5e:4x4
    chip: Tpu
    axes: tuple[int, ...]  # chips along each axis
    devices: tuple[jax.Device, ...]  # one per chip


@functools.cache  # the same devices at every call, because they are part of the cache key of `compile_train`
def find_slice(topology: str) -> Slice:
    """Returns the slice with the topology of that name.

    Raises:
      UserError: libtpu is not installed, or no slice has that name.
    """
    forms = ", ".join(f"{name}:{'x'.join('XYZ'[: chip.axes])}" for name, chip in TPUS.items())
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", topology)
    axes = tuple(map(int, match[2].split("x"))) if match else ()
    if not match or match[1] not in TPUS or len(axes) != TPUS[match[1]].axes:
        raise UserError("topology", repr(topology), f"a chip and the axes of a slice: {forms}", "for example v5e:4x4")
    chip, options = TPUS[match[1]], dict[str, Any]()
    if chip.cores == 2:  # one device for both cores, as on Cloud TPUs
        options["chip_config_name"] = "megacore"
    if math.prod(axes) == 1:
        options["chips_per_host_bounds"] = [1, 1, 1]
    compiler_version()  # raises if libtpu is not installed
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # libtpu need not lock any chips: compiling uses none
    try:
        devices = topologies.get_topology_desc(topology, "tpu", **options).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError("topology", repr(topology), f"an existing slice: {forms}", reason) from None
    return Slice(topology, chip, axes, tuple(devices))


def compiler_version() -> str:
    """Returns the version of libtpu, the TPU compiler; raises `UserError` if it is not installed."""
    try:
        return importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        hint = f'pip install "jax[tpu]=={jax.__version__}"'
        raise UserError("libtpu", "none", "the TPU compiler", hint) from None
