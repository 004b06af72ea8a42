"""StableAdamW clips each tensor of each layer. On several devices, it and Muon compute what they do on one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symbert_jax.config import MeshConfig, OptimConfig
from symbert_jax.model import bert
from symbert_jax.sharding import make_mesh
from symbert_jax.train.optimizer import make_optimizer
from tests.conftest import configure, init_params_numpy


def test_stable_adamw_divides_a_surprising_update_in_its_layer_alone() -> None:
    """The second gradient of layer 1 of the kernel is much larger than the first; numpy follows the paper."""
    optim = OptimConfig(name="stable_adamw", b1=0.9, b2=0.99, eps=1e-6, weight_decay=0.1, clip=0.0)
    rng = np.random.default_rng(0)
    shapes = {"layers": {"kernel": (2, 3, 4), "bias": (2, 4)}, "head": {"kernel": (3, 5)}}
    params, first, second = (
        jax.tree.map(
            lambda shape: rng.normal(size=shape).astype(np.float32), shapes, is_leaf=lambda x: type(x) is tuple
        )
        for _ in range(3)
    )
    second["layers"]["kernel"][1] *= 30
    optimizer = make_optimizer(optim)
    state = optimizer.init(params)
    for gradients in (first, second):
        updates, state = jax.jit(optimizer.update)(gradients, state, params)

    def wanted(weight: np.ndarray, g1: np.ndarray, g2: np.ndarray, decay: float) -> tuple[np.ndarray, float]:
        weight, g1, g2 = (array.astype(np.float64) for array in (weight, g1, g2))
        m = (0.9 * 0.1 * g1 + 0.1 * g2) / (1 - 0.9**2)
        u = (0.99 * 0.01 * g1**2 + 0.01 * g2**2) / (1 - 0.99**2)
        surprise = np.sqrt(np.mean(g2**2 / np.maximum(u, 1e-6**2)))
        return (m / (np.sqrt(u) + 1e-6) + decay * weight) / max(1.0, surprise), surprise

    arrays = [(tree["layers"]["kernel"], tree["layers"]["bias"]) for tree in (params, first, second)]
    for layer in range(2):
        kernel, surprise = wanted(*(tree[0][layer] for tree in arrays), 0.1)
        np.testing.assert_allclose(updates["layers"]["kernel"][layer], kernel, rtol=1e-5, atol=1e-6)
        assert (surprise > 1.2) == (layer == 1)
        bias, _ = wanted(*(tree[1][layer] for tree in arrays), 0.0)
        np.testing.assert_allclose(updates["layers"]["bias"][layer], bias, rtol=1e-5, atol=1e-6)
    head, _ = wanted(*(tree["head"]["kernel"] for tree in (params, first, second)), 0.1)
    np.testing.assert_allclose(updates["head"]["kernel"], head, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["muon", "stable_adamw"])
def test_optimizers_of_whole_tensors_agree_on_any_mesh_and_side_by_side(name: str) -> None:
    """The third update is that of two runs at once, as in a study and in fine-tuning."""
    config = configure(model={"attention": "pairwise"}, optim={"name": name})
    optimizer, weights = make_optimizer(config.optim), some_of(init_params_numpy(config.model))
    rng = np.random.default_rng(0)
    numbers = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), weights)

    def update(gradients: bert.Params, params: bert.Params) -> bert.Params:
        return optimizer.update(gradients, optimizer.init(params), params)[0]

    found = []
    for mesh_config in (MeshConfig(data=1), MeshConfig(data=4, model=2, fsdp=True)):
        with jax.set_mesh(make_mesh(mesh_config, jax.devices()[: mesh_config.data * mesh_config.model])):
            shardings = jax.tree.map(lambda leaf: leaf.sharding, some_of(bert.abstract(config.model, mesh_config)))
            params, gradients = (jax.device_put(tree, shardings) for tree in (weights, numbers))
            found.append(jax.jit(update)(gradients, params))
            jax.tree.map(check_sharding, found[-1], shardings)
            if mesh_config.fsdp:
                stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), (gradients, params))
                both = jax.device_get(jax.jit(jax.vmap(update))(*stacked))
                found.append(jax.tree.map(lambda leaf: leaf[1], both))
    wanted, *others = jax.device_get(found)
    for other in others:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), other, wanted)


def some_of(params: bert.Params) -> bert.Params:
    """Returns a parameter of each sharding."""
    attention, mlp = (params["layers"][part] for part in ("attention", "mlp"))
    kept = {"query": attention["query"], "output": attention["output"], "pair": attention["pair"], "up": mlp["up"]}
    return {"layers": kept, "embeddings": {"word": params["embeddings"]["word"]}}


def check_sharding(leaf: jax.Array, wanted: jax.sharding.Sharding) -> None:
    assert leaf.sharding.is_equivalent_to(wanted, leaf.ndim)
