import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractDevice, reshard

from symbert_jax.config import MeshConfig
from symbert_jax.model import dense
from symbert_jax.model.dense import Dense
from symbert_jax.sharding import make_mesh, spec

SIZES = {"B": 4, "T": 5, "D": 6, "N": 2, "H": 3, "F": 8}


@pytest.mark.parametrize("kind", ["cpu", "TPU v5", "TPU v5 lite"])  # each with products of its own
@pytest.mark.parametrize("model", [1, 2])  # devices that share the heads
@pytest.mark.parametrize("dims", ["D->NH", "NH->D", "D->F"])
def test_it_and_its_gradients_are_those_of_a_matrix_product(dims, model, kind, monkeypatch):
    device = AbstractDevice(device_kind=kind, num_cores=None, platform="tpu" if "TPU" in kind else "cpu")
    monkeypatch.setattr(dense, "device", lambda: device)
    inputs, outputs = dims.split("->")
    with jax.set_mesh(make_mesh(MeshConfig(model=model), jax.devices()[: 2 * model])):
        structure, _ = nnx.split(Dense(dims, SIZES, nnx.Rngs(0)))
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
