"""Every layout computes what the plain form computes, and merged heads are used only where they pay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, reshard

from symbert_jax.config import MeshConfig
from symbert_jax.model import tpu_layouts
from symbert_jax.model.layers import Dense
from symbert_jax.sharding import AXES, make_mesh, spec

SIZES = {"B": 4, "T": 5, "D": 6, "N": 2, "H": 3, "F": 8}


@pytest.mark.parametrize("kind", ["cpu", "TPU v5", "TPU v5 lite"])  # each with other forms of the products
@pytest.mark.parametrize("model_axis", [1, 2])  # devices that share the heads
@pytest.mark.parametrize("dims", ["D->NH", "NH->D", "D->F"])
def test_dense_and_its_gradients_equal_a_matrix_product(dims, model_axis, kind, monkeypatch):
    device = AbstractDevice(device_kind=kind, num_cores=None, platform="tpu" if "TPU" in kind else "cpu")
    monkeypatch.setattr(tpu_layouts, "device", lambda: device)
    inputs, outputs = dims.split("->")
    with jax.set_mesh(make_mesh(MeshConfig(model=model_axis), jax.devices()[: 2 * model_axis])):
        structure, _ = nnx.split(Dense(dims, SIZES, nnx.Rngs(0), std=0.02))
        rng = np.random.default_rng(0)
        shapes = ("BT" + inputs, inputs + outputs, outputs)
        arguments = tuple(rng.normal(size=[SIZES[dim] for dim in dims]).astype(np.float32) for dims in shapes)

        def ours(x, kernel, bias):
            kernel, bias = (reshard(each, spec(dims)) for each, dims in ((kernel, inputs + outputs), (bias, outputs)))
            layer = nnx.merge(structure, nnx.State({"kernel": kernel, "bias": bias}))
            return jnp.sum(jnp.sin(layer(reshard(x, spec("BT" + inputs)))))

        def plain(x, kernel, bias):
            return jnp.sum(jnp.sin(jnp.tensordot(x, kernel, len(inputs)) + bias))

        found, wanted = (jax.jit(jax.value_and_grad(f, argnums=(0, 1, 2)))(*arguments) for f in (ours, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, wanted)


@pytest.mark.parametrize(
    ("kind", "rows", "dims", "wanted"),
    [
        ("TPU v5 lite", 4 * 8, "DNH", True),
        ("TPU v5 lite", 4 * 16, "NHD", True),
        ("TPU v5 lite", 4 * 32, "DNH", False),
        ("TPU v5 lite", 4 * 8, "DF", False),
        ("TPU v6 lite", 4 * 8, "DNH", True),
        ("TPU v5", 4 * 8, "DNH", False),
        ("cpu", 4 * 8, "DNH", False),
    ],
)
def test_heads_are_merged_by_chip_and_rows_per_chip(kind, rows, dims, wanted):
    """On 4 chips along `data`, with 512 tokens a row."""
    chip = AbstractDevice(device_kind=kind, num_cores=1, platform="tpu" if "TPU" in kind else "cpu")
    mesh = AbstractMesh((4, 2), AXES, (AxisType.Explicit,) * 2, abstract_device=chip)
    found = []
    with jax.sharding.use_abstract_mesh(mesh):
        x = jax.ShapeDtypeStruct((rows, 512, 8), jnp.float32, sharding=jax.NamedSharding(mesh, spec("BTD")))
        jax.eval_shape(lambda x: found.append(tpu_layouts.should_merge_heads(x, dims)), x)
    assert found == [wanted]
