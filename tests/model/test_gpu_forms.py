"""The forms for a GPU compute what the plain forms compute, and the program for an H100 has them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, reshard

from symbert_jax.batch import MlmBatch
from symbert_jax.config import Config, MeshConfig
from symbert_jax.model import bert, gpu_forms, tpu_layouts
from symbert_jax.sharding import make_mesh, spec
from symbert_jax.train import state, step
from tests.conftest import configure

H100 = AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=None, platform="gpu")
ROWS, MASKED = 4, 8


@pytest.fixture
def on_gpu(monkeypatch):
    """Makes the forms those of a GPU, which a CPU can run."""
    for module in (gpu_forms, tpu_layouts):
        monkeypatch.setattr(module, "device", lambda: H100)


@pytest.fixture
def mesh_2x2():
    """Two devices along the batch and two along the heads and the vocabulary."""
    mesh = make_mesh(MeshConfig(data=2, model=2), jax.devices()[:4])
    with jax.set_mesh(mesh):
        yield mesh


def tiny(**model) -> Config:
    return configure(model={"layers": 2, "length": 16, "dtype": "bfloat16", **model})


def gradients(config: Config) -> jax.stages.Wrapped:
    def total(params, batch):
        return step.mlm_objective(config.model, params, batch, jax.random.key(1))["loss"][0]

    return jax.jit(jax.value_and_grad(total))


def make_batch(config: Config) -> MlmBatch:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, config.model.vocab_size, (ROWS, config.model.length), dtype=np.int32)
    positions = np.tile(np.arange(MASKED, dtype=np.int32), (ROWS, 1))
    return MlmBatch(tokens, positions, tokens[:, :MASKED], np.ones((ROWS, MASKED), np.float32))


def test_gradients_equal_those_of_plain_forms(mesh_2x2, monkeypatch):
    """In float32, where the forms round alike."""
    config = tiny(dtype="float32")
    params, batch = bert.init(config.model, config.mesh, jax.random.key(0)), make_batch(config)
    wanted = gradients(config)(params, batch)
    for module in (gpu_forms, tpu_layouts):
        monkeypatch.setattr(module, "device", lambda: H100)
    found = gradients(config)(params, batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, wanted)


def test_gradients_of_a_token_are_summed_in_float32(on_gpu, mesh_2x2):
    """The gradient is rounded only after the sum, whatever the compiler for a CPU does with sums in bfloat16."""
    ids = np.zeros((4, 128), np.int32)

    def total(table):
        table = reshard(table, jax.P("model", None, reduced={"data"}))
        return gpu_forms.look_up(table, ids).astype(jnp.float32).sum()

    gradient = jax.jit(jax.grad(total))
    table = reshard(jnp.ones((6, 2), jnp.bfloat16), spec("VD"))
    sums = [line for line in str(gradient.trace(table).jaxpr).splitlines() if "= scatter-add" in line]
    assert len(sums) == 1 and ":f32[6" in sums[0]
    np.testing.assert_array_equal(np.asarray(gradient(table), np.float32), [[512] * 2, *[[0] * 2] * 5])


def test_gradient_of_a_bias_is_summed_in_float32(on_gpu, mesh_2x2):
    y, bias = jnp.zeros((8, 512, 2), jnp.bfloat16), jnp.zeros(2, jnp.bfloat16)
    gradient = jax.jit(jax.grad(lambda bias: tpu_layouts.add_bias(y, bias).astype(jnp.float32).sum()))
    program = gradient.lower(bias).as_text()
    assert np.asarray(gradient(bias), np.float32).tolist() == [4096] * 2
    assert "(tensor<8x512x2xf32>, tensor<f32>) -> tensor<2xf32>" in program


def test_program_for_a_gpu_has_the_forms(on_gpu, mesh_2x2):
    """Lowering for a GPU needs none; nothing is compiled or run."""
    config = tiny(unroll=0)
    abstract = state.abstract(config)
    program = step.make_train_step(config).trace(abstract, make_batch(config)).lower(lowering_platforms=("cuda",))
    lines = program.as_text().splitlines()
    pinned = [line for line in lines if "@LayoutConstraint" in line]
    products = [line.rpartition(" : ")[2] for line in lines if "dot_general" in line]
    assert len(pinned) == 2  # the embedded tokens and their gradient
    assert all("xbf16>" in each.partition(" -> ")[0] and "xf32>" not in each.partition(" -> ")[0] for each in products)


@pytest.mark.parametrize("platform", ["gpu", "cpu"])
def test_loop_over_layers_keeps_no_float32_activations_on_a_gpu(platform, mesh_2x2, monkeypatch):
    monkeypatch.setattr(gpu_forms, "device", lambda: dataclasses.replace(H100, platform=platform))
    config = tiny()
    params = bert.abstract(config.model, config.mesh)
    program = str(gradients(config).trace(params, make_batch(config)).jaxpr)
    kept = f"f32[{config.model.layers},{ROWS}@data,{config.model.length},{config.model.dim}]"
    assert (kept in program) == (platform == "cpu")
