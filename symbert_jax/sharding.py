"""The mesh, and one table from the dimensions of arrays to mesh axes.

Dimensions have the letters of the einsums (docs/how_it_works.md). Activations and parameters share the table. With
`mesh.fsdp`, matrices and their moments are also sharded along `data` by their width D, and each layer gathers its
matrices when it runs.
"""

import collections
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractDevice, AxisType, NamedSharding, PartitionSpec
from jaxtyping import Int

from symbert_jax.config import Config, MeshConfig, ModelConfig, split_problems
from symbert_jax.errors import UserError

AXES = ("data", "model")
MESH_AXES = {"B": "data", "N": "model", "F": "model", "V": "model"}  # the dimensions of other letters are not sharded
FSDP_AXES = {"D": "data"}  # additional axes of parameters with `mesh.fsdp`
PREFETCH = 2  # batches whose transfers to the devices have started when the first of them is needed


def make_mesh(mesh_config: MeshConfig, devices: list[jax.Device] | None = None) -> jax.sharding.Mesh:
    """Returns a (data, model) mesh with explicit axes over `devices`, by default all devices.

    Raises:
      UserError: the axes do not multiply to the number of devices.
    """
    devices = devices or jax.devices()
    data = len(devices) // mesh_config.model if mesh_config.data == -1 else mesh_config.data
    if data * mesh_config.model != len(devices):
        raise UserError(
            "mesh",
            f"mesh.data={mesh_config.data} x mesh.model={mesh_config.model}",
            f"a product of {len(devices)}, the number of devices",
            "mesh.data=-1 takes all that mesh.model leaves",
        )
    return jax.make_mesh((data, mesh_config.model), AXES, axis_types=(AxisType.Explicit,) * 2, devices=devices)


def device() -> AbstractDevice:
    """Returns the kind of device of the current mesh; its `platform` is cpu | gpu | tpu."""
    return jax.sharding.get_abstract_mesh().abstract_device


def problems(config: Config, mesh: jax.sharding.Mesh) -> Iterator[UserError]:
    """Yields an error if the rows of a micro-batch, or with FSDP the width D, cannot be split equally along `data`."""
    size, accumulate = mesh.shape["data"], config.optim.accumulate
    if config.data.batch_size % (size * accumulate):
        yield UserError(
            "data.batch_size",
            str(config.data.batch_size),
            f"a multiple of {size * accumulate}",
            f"each of optim.accumulate={accumulate} micro-batches is split over the mesh axis data, of size {size}",
        )
    yield from _width_problems(config.model, config.mesh, mesh)


def check_split(model: ModelConfig, mesh_config: MeshConfig, mesh: jax.sharding.Mesh) -> None:
    """Raises `UserError` if the parameters of `model` cannot be sharded over `mesh`.

    mesh_config: the config from which `make_mesh` made `mesh`.
    """
    for problem in (*split_problems(model, mesh_config), *_width_problems(model, mesh_config, mesh)):
        raise problem


def _width_problems(model: ModelConfig, mesh_config: MeshConfig, mesh: jax.sharding.Mesh) -> Iterator[UserError]:
    size = mesh.shape["data"]
    if mesh_config.fsdp and model.dim % size:
        wanted = f"a multiple of {size}, the size of the mesh axis data"
        yield UserError("model.dim", str(model.dim), wanted, "mesh.fsdp splits it over this axis")


def spec(dims: str) -> PartitionSpec:
    """Returns the partition of an array whose dimensions have these letters, for example `spec("BTD")`."""
    return PartitionSpec(*(MESH_AXES.get(dim) for dim in dims))


def parameter_spec(dims: str, mesh_config: MeshConfig) -> PartitionSpec:
    """Returns the partition in which a parameter is stored; a layer may gather it to use it."""
    is_vector = len(dims.lstrip("L")) <= 1  # in each layer; L is the dimension of the stacked layers
    axes = MESH_AXES | FSDP_AXES if mesh_config.fsdp and not is_vector else MESH_AXES
    return PartitionSpec(*(axes.get(dim) for dim in dims))


def local_row_indices(num_rows: int, mesh: jax.sharding.Mesh) -> Int[np.ndarray, " local_rows"]:
    """Returns, in order, the indices of those rows of a batch of `num_rows` that the devices of this process hold.

    The mesh of a TPU follows its physical links, not the numbers of processes, so these rows need not be adjacent.
    """
    indices = NamedSharding(mesh, spec("B")).addressable_devices_indices_map((num_rows,))
    return np.unique(np.concatenate([np.arange(num_rows)[index] for index in indices.values()]))


def put_batch(batch: Any, dims: str = "B") -> Any:
    """Returns global device arrays, sharded along B over the current mesh, from `batch`.

    batch: the rows of this process, at its `local_row_indices`.
    dims: letters of the leading dimensions, the last of them B.
    """
    sharding = NamedSharding(jax.sharding.get_mesh(), spec(dims))
    return jax.tree.map(lambda local: jax.make_array_from_process_local_data(sharding, local), batch)


def put_batches(batches: Iterator[Any], dims: str = "B") -> Iterator[Any]:
    """Yields each batch as `put_batch` returns it, once the transfers of the next PREFETCH - 1 batches have started."""
    queue = collections.deque(put_batch(batch, dims) for batch in itertools.islice(batches, PREFETCH))
    while queue:
        yield queue.popleft()
        queue.extend(put_batch(batch, dims) for batch in itertools.islice(batches, 1))
