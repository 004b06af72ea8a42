"""The mesh, the mapping from dimension letters to mesh axes, and batches on the devices. There are 8 devices."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from symbert_jax.config import MeshConfig
from symbert_jax.errors import UserError
from symbert_jax.sharding import make_mesh, parameter_spec, put_batches, spec


def test_spec_maps_dimensions_to_mesh_axes() -> None:
    assert spec("BTD") == PartitionSpec("data", None, None)
    assert spec("BNTS") == PartitionSpec("data", "model", None, None)
    assert parameter_spec("LDNH", MeshConfig()) == PartitionSpec(None, None, "model", None)
    assert parameter_spec("LDNH", MeshConfig(fsdp=True)) == PartitionSpec(None, "data", "model", None)
    assert parameter_spec("VD", MeshConfig(fsdp=True)) == PartitionSpec("model", "data")


def test_data_axis_takes_the_devices_that_model_axis_leaves() -> None:
    """By default, `data` is -1."""
    assert dict(make_mesh(MeshConfig(model=2)).shape) == {"data": 4, "model": 2}


@pytest.mark.parametrize("mesh", [MeshConfig(data=3), MeshConfig(data=8, model=2), MeshConfig(model=3)])
def test_make_mesh_rejects_axes_whose_product_is_not_the_number_of_devices(mesh: MeshConfig) -> None:
    with pytest.raises(UserError, match="wanted a product of 8"):
        make_mesh(mesh)


def test_put_batches_shards_the_rows_of_each_batch() -> None:
    batches = [{"rows": rows} for rows in np.arange(96).reshape(3, 16, 2)]
    with jax.set_mesh(make_mesh(MeshConfig(data=4, model=2))):
        arrays = [batch["rows"] for batch in put_batches(iter(batches))]
    for array, batch in zip(arrays, batches, strict=True):
        assert array.sharding.spec == PartitionSpec("data")
        assert array.addressable_shards[0].data.shape == (4, 2)
        np.testing.assert_array_equal(array, batch["rows"])
