import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from symbert_jax.config import MeshConfig
from symbert_jax.errors import UserError
from symbert_jax.sharding import make_mesh, parameter_spec, put_batch, spec


def test_letters_say_where_dimensions_live() -> None:
    assert spec("BTD") == PartitionSpec("data", None, None)
    assert spec("BNTS") == PartitionSpec("data", "model", None, None)
    assert parameter_spec("LDNH", MeshConfig()) == PartitionSpec(None, None, "model", None)
    assert parameter_spec("LDNH", MeshConfig(fsdp=True)) == PartitionSpec(None, "data", "model", None)
    assert parameter_spec("VD", MeshConfig(fsdp=True)) == PartitionSpec("model", "data")


def test_minus_one_takes_what_the_model_axis_leaves() -> None:
    assert dict(make_mesh(MeshConfig(model=2)).shape) == {"data": 4, "model": 2}


@pytest.mark.parametrize("mesh", [MeshConfig(data=3), MeshConfig(data=8, model=2), MeshConfig(model=3)])
def test_a_mesh_of_another_size_than_the_devices_is_an_error(mesh: MeshConfig) -> None:
    with pytest.raises(UserError, match="wanted a product of 8"):
        make_mesh(mesh)


def test_a_batch_is_cut_along_its_rows() -> None:
    rows = np.arange(32).reshape(16, 2)
    with jax.set_mesh(make_mesh(MeshConfig(data=4, model=2))):
        array = put_batch({"rows": rows})["rows"]
    assert array.sharding.spec == PartitionSpec("data")
    assert array.addressable_shards[0].data.shape == (4, 2)
    np.testing.assert_array_equal(array, rows)
