"""The kernel `short` computes what `xla` computes, with the same dropout, and compiles for every TPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symbert_jax.config import MeshConfig
from symbert_jax.estimate.slices import find_slice
from symbert_jax.model import kernels
from symbert_jax.model.short import plan, symmetric
from symbert_jax.model.short.plan import Plan, largest_divisor
from symbert_jax.sharding import make_mesh, spec

RATE = 0.1


@pytest.fixture(autouse=True)
def mesh_4x2():
    """Four devices along the batch and two along the heads."""
    mesh = make_mesh(MeshConfig(data=4, model=2))
    with jax.set_mesh(mesh):
        yield mesh


def segments_of_documents(length: int) -> np.ndarray:
    """Returns four rows: of two documents, of two and padding, of one and padding, of one token and padding."""
    counts = np.array([[length], [length - 50], [30], [1]])
    tokens = np.arange(length)
    return np.where(tokens < counts, 1 + ((tokens > length // 3) & (counts > 30)), 0).astype(np.int32)


@pytest.mark.parametrize(
    ("length", "width", "heads", "documents", "rate", "window"),
    [
        (128, 32, 2, True, 0.0, 0),
        (256, 64, 4, True, RATE, 0),
        (384, 128, 2, False, RATE, 0),
        (1024, 32, 2, False, RATE, 0),
        (1024, 32, 2, True, RATE, 128),
        (512, 32, 2, False, 0.0, 200),
    ],
)
def test_short_equals_xla_in_output_and_gradients(length, width, heads, documents, rate, window, mesh_4x2) -> None:
    """Heads and rows are split over devices; 384 tokens are three chunks of keys, 1,024 two blocks of queries.

    With a window, 1,024 tokens are four blocks, of which none reaches all keys.
    """
    rng = np.random.default_rng(0)
    qkv = [rng.normal(size=(4, length, heads, width)).astype(np.float32) for _ in range(3)]
    qkv = jax.device_put(qkv, jax.NamedSharding(mesh_4x2, spec("BTNH")))
    segments = segments_of_documents(length) if documents else None
    # far from all tokens, padding sees none, and then each kernel computes something else
    is_real = segments[..., None, None] > 0 if documents and window else 1.0
    weights = jnp.sin(jnp.arange(length * 1.0))[:, None, None]

    def results(kernel):
        def total(q, k, v):
            mixed = kernel(q, k, v, segments, rate, jax.random.key(3), window) * is_real
            return jnp.sum(mixed * weights), mixed

        gradients, mixed = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))(*qkv)
        return mixed, gradients

    found, wanted = results(functools.partial(kernels.short, interpret=True)), results(kernels.xla)
    np.testing.assert_allclose(found[0], wanted[0], atol=1e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4), found[1], wanted[1])


@pytest.mark.parametrize(
    ("length", "width", "block", "documents", "large_factor"),
    [(256, 64, 1024, True, 1.0), (384, 32, 128, False, 1.0), (256, 32, 1024, True, 6.0)],
)
def test_symmetric_form_equals_xla_in_output_and_gradients(
    length, width, block, documents, large_factor, mesh_4x2, monkeypatch
) -> None:
    """384 tokens are three blocks. A factor of 6 on some queries makes exponentials underflow, so `forward` runs."""
    monkeypatch.setattr(plan, "SHORTEST_SYMMETRIC", 256)
    monkeypatch.setattr(plan, "LONGEST_SYMMETRIC_BLOCK", block)
    rng = np.random.default_rng(0)
    q, v = (rng.normal(size=(4, length, 2, width)).astype(np.float32) for _ in range(2))
    q[:, ::7] *= large_factor
    qv = jax.device_put((q, v), jax.NamedSharding(mesh_4x2, spec("BTNH")))
    segments = segments_of_documents(length) if documents else None
    weights = jnp.sin(jnp.arange(length * 1.0))[:, None, None]

    def results(kernel):
        def total(q, v):
            mixed = kernel(q, q, v, segments, 0.0, None)
            return jnp.sum(mixed * weights), mixed

        gradients, mixed = jax.jit(jax.grad(total, (0, 1), has_aux=True))(*qv)
        return mixed, gradients

    found = results(functools.partial(kernels.short, is_symmetric=True, interpret=True))
    wanted = results(kernels.xla)
    np.testing.assert_allclose(found[0], wanted[0], atol=1e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4), found[1], wanted[1])
    assert bool(symmetric.in_range(qv[0].transpose(0, 2, 3, 1))) == (large_factor == 1)


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [
        ({"length": 1024}, True),
        ({"length": 512}, False),
        ({"length": 1024, "window": 128}, False),
        ({"length": 1024, "dropout_rate": RATE}, False),
        ({"length": 1024, "query_width": 8}, False),
    ],
)
def test_symmetric_form_is_taken_for_long_rows_without_dropout_and_windows(sizes, wanted) -> None:
    assert Plan(rows=4, heads=2, device_cores=1, **sizes).has_symmetric_form == wanted


def test_short_draws_the_dropout_mask_of_xla(mesh_4x2) -> None:
    """With equal scores and the unit matrix as values, the output is the mask; each of two trials has its own key."""
    length, trials = 256, 2
    zeros = jnp.zeros((4, length, 4, 8), out_sharding=spec("BTNH"))
    values = jnp.broadcast_to(jnp.eye(length)[:, None], (4, length, 4, length), out_sharding=spec("BTNH"))

    def masks(kernel):
        mix = jax.jit(jax.vmap(lambda key: kernel(zeros, zeros, values, None, RATE, key)))
        return np.asarray(mix(jax.random.split(jax.random.key(5), trials))) > 0

    found = masks(functools.partial(kernels.short, interpret=True))
    np.testing.assert_array_equal(found, masks(kernels.xla))
    assert found.mean() == pytest.approx(1 - RATE, abs=1e-3)


@pytest.mark.parametrize(("is_symmetric", "value"), [(False, 1), (True, 0)])
def test_rows_of_padding_have_the_mean_of_the_values_or_zero_and_no_gradients(
    is_symmetric, value, mesh_4x2, monkeypatch
) -> None:
    monkeypatch.setattr(plan, "SHORTEST_SYMMETRIC", 128)
    q = jnp.ones((4, 128, 2, 16), out_sharding=spec("BTNH"))

    def total(q):
        segments = np.zeros((4, 128), np.int32)
        return kernels.short(q, q, q, segments, 0.0, None, 0, is_symmetric, interpret=True).sum()

    mixed, gradient = jax.jit(jax.value_and_grad(total))(q)
    assert mixed == value * q.size and not gradient.any()


@pytest.mark.parametrize(
    ("topology", "is_symmetric"), [("v4:2x2x1", False), ("v5e:2x2", True), ("v5p:2x2x1", False), ("v6e:2x2", False)]
)
def test_short_compiles_for_every_tpu(topology, is_symmetric, monkeypatch) -> None:
    monkeypatch.setattr(plan, "SHORTEST_SYMMETRIC", 256)
    jax.config.update("jax_enable_compilation_cache", False)  # it cannot read back programs for other machines
    mesh = make_mesh(MeshConfig(), list(find_slice(topology).devices))

    def total(q, k, v, segments):
        windows = (0, 128)
        mixed = [kernels.short(q, k, v, segments, RATE, jax.random.key(0), each, interpret=False) for each in windows]
        if is_symmetric:
            q, v, segments = (x[:, :256] for x in (q, v, segments))
            mixed.append(kernels.short(q, q, v, segments, 0.0, None, is_symmetric=True, interpret=False))
        return sum(jnp.sum(each.astype(jnp.float32)) for each in mixed)

    with jax.set_mesh(mesh):
        q = jax.ShapeDtypeStruct((4, 640, 2, 64), jnp.bfloat16, sharding=jax.NamedSharding(mesh, spec("BTNH")))
        segments = jax.ShapeDtypeStruct((4, 640), jnp.int32, sharding=jax.NamedSharding(mesh, spec("BT")))
        program = jax.jit(jax.grad(total, (0, 1, 2))).lower(q, q, q, segments).compile().as_text()
    jax.config.update("jax_enable_compilation_cache", True)
    assert program.count('custom_call_target="tpu_custom_call"') == 4 + 4 * is_symmetric


@pytest.mark.parametrize(("length", "wanted"), [(128, 128), (384, 384), (640, 128), (1024, 512), (1152, 384)])
def test_largest_divisor_is_a_multiple_of_the_lanes(length, wanted) -> None:
    assert largest_divisor(length, 512) == wanted
