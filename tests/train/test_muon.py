"""Muon updates the matrices of each layer, and AdamW the rest, on one device and on several."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from symbert_jax.config import MeshConfig, OptimConfig
from symbert_jax.model.bert import Bert
from symbert_jax.model.layers import Dense
from symbert_jax.sharding import make_mesh
from symbert_jax.train import muon
from symbert_jax.train.optimizer import make_optimizer
from tests.conftest import configure
from tests.forms import FORMS, MODERN

D, N, H, F, L = 6, 2, 3, 8, 3


def newton_schulz(x: np.ndarray) -> np.ndarray:
    """Five iterations with the coefficients of Jordan et al. (2024), on the side that has fewer rows."""
    if x.shape[0] > x.shape[1]:
        return newton_schulz(x.T).T
    x = x / np.linalg.norm(x)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x


def expected(moment: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Returns the updates of matrices of this size, which follow each other in an array."""
    matrices = moment.reshape(-1, rows, columns)
    return 0.2 * max(rows, columns) ** 0.5 * np.stack(list(map(newton_schulz, matrices))).reshape(moment.shape)


def test_muon_updates_every_matrix_of_every_layer_and_adamw_the_rest() -> None:
    """Two updates with weight decay are compared with numpy, in float64."""
    shapes = {"query": (L, D, N, H), "value": (L, D, N, H), "output": (L, N, H, D)}
    sizes = {"query": (D, N * H), "value": (D, N * H), "output": (N * H, D), "up": (D, F), "down": (F, D)}
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    def draw_tree() -> dict:
        attention = {name: {"kernel": draw(*shape), "bias": draw(L, shape[-1])} for name, shape in shapes.items()}
        attention["pair"] = draw(L, N, H, H)
        mlp = {"up": {"kernel": draw(L, D, F)}, "down": {"kernel": draw(L, F, D)}}
        layers = {"attention": attention, "mlp": mlp, "norm": {"scale": draw(L, D)}}
        return {"layers": layers, "embeddings": {"word": draw(20, D)}, "head": {"dense": {"kernel": draw(D, D)}}}

    params, *gradients = (draw_tree() for _ in range(3))
    optim = OptimConfig(name="muon", weight_decay=0.1, momentum=0.9, clip=0.0, b1=0.8, b2=0.9, eps=1e-8)
    optimizer = make_optimizer(optim)
    state = optimizer.init(params)
    for tree in gradients:
        updates, state = jax.jit(optimizer.update)(tree, state, params)
    adamw = make_optimizer(OptimConfig(**{**vars(optim), "name": "adamw"}))
    adamw_state = adamw.init(params)
    for tree in gradients:
        by_adamw, adamw_state = jax.jit(adamw.update)(tree, adamw_state, params)
    leaves = [dict(jax.tree.leaves_with_path(tree)) for tree in (params, *gradients, by_adamw)]
    num_matrices = 0
    for path, found in jax.tree.leaves_with_path(updates):
        weight, first, second, adamw_update = (tree[path] for tree in leaves)
        *_, module, name = ("", "", *(key.key for key in path))
        size = (H, H) if name == "pair" else sizes.get(module) if name == "kernel" else None
        if size is None:
            np.testing.assert_array_equal(found, adamw_update, err_msg=str(path))
            continue
        num_matrices += 1
        momentum = second + 0.9 * first
        wanted = expected((second + 0.9 * momentum).astype(np.float64), *size) + 0.1 * weight
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5, err_msg=str(path))
    assert num_matrices == 6


@pytest.mark.parametrize("form", [*FORMS, "modern"])
def test_muon_takes_the_inputs_of_every_kernel_for_its_rows(form: str) -> None:
    """The letters of a `Dense` say what its inputs are; a matrix of P has one input dimension."""
    module = nnx.eval_shape(lambda: Bert(configure(model=(FORMS | {"modern": MODERN})[form]).model, nnx.Rngs(0)))
    kernels = {path: found for path, found in nnx.iter_modules(module) if isinstance(found, Dense)}
    of_layers = {path[-1]: len(found.inputs) for path, found in kernels.items() if path[0] == "layers"}
    assert of_layers.keys() >= {"value", "output", "up", "down"}
    assert of_layers == {name: muon._INPUT_DIMENSIONS.get(name, 1) for name in of_layers}
    params = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    updated = {path[-1].key for path, leaf in jax.tree.leaves_with_path(params) if muon.is_matrix(path, leaf)}
    pairs = {"narrow_pairwise": {"pair"}, "low_rank": {"pair_left", "pair_right"}}
    assert updated == {"kernel"} | pairs.get(form, set())


@pytest.mark.parametrize("layers", [2, 8, 9, 12])
def test_devices_divide_the_layers(layers: int) -> None:
    arrays = np.random.default_rng(0).normal(size=(layers, 2, 3)).astype(np.float32)
    mesh, replicated = make_mesh(MeshConfig(data=4, model=2)), PartitionSpec()
    with jax.set_mesh(mesh):
        seen = []

        def double(own: jax.Array) -> jax.Array:
            seen.append(len(own))
            return 2 * own

        found = jax.jit(
            jax.shard_map(
                lambda x: muon._divide_layers(double, ("data", "model"), 8, x),
                in_specs=replicated,
                out_specs=replicated,
            )
        )(jnp.asarray(arrays))
    np.testing.assert_array_equal(found, 2 * arrays)
    assert set(seen) == {-(-layers // 8)}
