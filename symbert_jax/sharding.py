"""Where arrays live: the mesh, and one table from dimension names to mesh axes.

Dimensions carry the letters of the einsums (README, "Letters"). Activations and parameters share the table;
with `mesh.fsdp` matrices and their moments are also sharded along `data` by their width D, and each layer
gathers its own when it runs.
"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractDevice, AxisType, NamedSharding, PartitionSpec
from jaxtyping import Int

from symbert_jax.config import Config, MeshConfig, ModelConfig, split_problems
from symbert_jax.errors import UserError

AXES = ("data", "model")
MESH_AXES = {"B": "data", "N": "model", "F": "model", "V": "model"}
FSDP_AXES = {"D": "data"}


def make_mesh(mesh: MeshConfig, devices: list[jax.Device] | None = None) -> jax.sharding.Mesh:
    """A (data, model) mesh with explicit axes over `devices`, by default all there are."""
    devices = devices or jax.devices()
    data = len(devices) // mesh.model if mesh.data == -1 else mesh.data
    if data * mesh.model != len(devices):
        raise UserError(
            "mesh",
            f"mesh.data={mesh.data} x mesh.model={mesh.model}",
            f"a product of {len(devices)}, the number of devices",
            "mesh.data=-1 takes all that mesh.model leaves",
        )
    return jax.make_mesh((data, mesh.model), AXES, axis_types=(AxisType.Explicit,) * 2, devices=devices)


def device() -> AbstractDevice:
    """What the current mesh is made of; its `platform` is cpu | gpu | tpu."""
    return jax.sharding.get_abstract_mesh().abstract_device


def problems(config: Config, mesh: jax.sharding.Mesh) -> Iterator[UserError]:
    """Every device must get the same whole number of rows of every micro-batch, and of columns with FSDP."""
    devices, accumulate = mesh.shape["data"], config.optim.accumulate
    if config.data.batch_size % (devices * accumulate):
        yield UserError(
            "data.batch_size",
            str(config.data.batch_size),
            f"a multiple of {devices * accumulate}",
            f"{devices} devices share each of optim.accumulate={accumulate} micro-batches",
        )
    yield from _width_problems(config.model, config.mesh, mesh)


def check_split(model: ModelConfig, settings: MeshConfig, mesh: jax.sharding.Mesh) -> None:
    """Raises `UserError` where the parameters of `model` cannot be shared out over `mesh`, made by `settings`."""
    for problem in (*split_problems(model, settings), *_width_problems(model, settings, mesh)):
        raise problem


def _width_problems(model: ModelConfig, settings: MeshConfig, mesh: jax.sharding.Mesh) -> Iterator[UserError]:
    devices = mesh.shape["data"]
    if settings.fsdp and model.dim % devices:
        yield UserError("model.dim", str(model.dim), f"a multiple of the {devices} devices of mesh.fsdp")


def spec(dims: str) -> PartitionSpec:
    """The partition of an array whose dimensions have these letters, e.g. `spec("BTD")`."""
    return PartitionSpec(*(MESH_AXES.get(dim) for dim in dims))


def parameter_spec(dims: str, mesh: MeshConfig) -> PartitionSpec:
    """The partition in which a parameter rests between uses."""
    place = MESH_AXES | FSDP_AXES if mesh.fsdp and len(dims.lstrip("L")) > 1 else MESH_AXES
    return PartitionSpec(*(place.get(dim) for dim in dims))


def local_row_indices(rows: int, mesh: jax.sharding.Mesh) -> Int[np.ndarray, " here"]:
    """Which rows of a batch of `rows` this process's devices hold, in order.

    A TPU's mesh follows its wires: processes come in any order, and one may hold rows far apart.
    """
    held = NamedSharding(mesh, spec("B")).addressable_devices_indices_map((rows,))
    return np.unique(np.concatenate([np.arange(rows)[index] for index in held.values()]))


def put_batch(batch: Any, dims: str = "B") -> Any:
    """Global device arrays from the rows of `local_row_indices`, sharded along B over the current mesh.

    dims: letters of the leading dimensions, the last of them B.
    """
    sharding = NamedSharding(jax.sharding.get_mesh(), spec(dims))
    return jax.tree.map(lambda local: jax.make_array_from_process_local_data(sharding, local), batch)
