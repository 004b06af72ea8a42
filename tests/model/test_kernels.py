"""Every kernel computes the same as `xla`, and is chosen only where it can run."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from symbert_jax.batch import MlmBatch
from symbert_jax.config import ATTENTIONS, MeshConfig, ModelConfig
from symbert_jax.errors import UserError
from symbert_jax.model import bert, classifier, kernels
from symbert_jax.model.triton import Tile, Tiling
from symbert_jax.model.triton.tiles import MASKED
from symbert_jax.sharding import make_mesh, spec
from symbert_jax.train.step import mlm_objective
from tests.conftest import configure, init_params_numpy

CPU = AbstractDevice(device_kind="cpu", num_cores=None, platform="cpu")
TPU = AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")
TPU_V4 = AbstractDevice(device_kind="TPU v4", num_cores=2, platform="tpu")
H100 = AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=None, platform="gpu")
V100 = AbstractDevice(device_kind="Tesla V100-SXM2-16GB", num_cores=None, platform="gpu")

PAD, SEP = 0, 3
TINY = configure(model={"layers": 1, "length": 128, "attention_dropout": 0.0}).model
LENGTHS = np.array([[256], [200], [3], [1]])  # the numbers of tokens in four padded rows
SHORT = np.minimum(LENGTHS // 4 + 1, 64)  # the same for rows of 64 tokens


@pytest.fixture
def mesh_4x2():
    """Four devices along the batch and two along the heads."""
    mesh = make_mesh(MeshConfig(data=4, model=2))
    with jax.set_mesh(mesh):
        yield mesh


@pytest.fixture
def cudnn_by_jax(monkeypatch):
    """Replaces cuDNN in `jax.nn.dot_product_attention` by JAX's own implementation, as there is no GPU."""
    real = jax.nn.dot_product_attention

    def by_jax(*arguments, implementation, **others):
        assert implementation == "cudnn"
        return real(*arguments, implementation="xla", **others)

    monkeypatch.setattr(jax.nn, "dot_product_attention", by_jax)


def assert_near(found, wanted, atol: float) -> None:
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=atol, rtol=1e-4), found, wanted)


@pytest.mark.parametrize(
    ("segments", "window"),
    [
        (None, 0),
        (np.arange(256) // np.array([[256], [100], [7], [1]]) + 1, 60),
        (np.where(np.arange(256) < LENGTHS, 1 + (np.arange(256) > LENGTHS // 2), 0), 0),
        (np.where(np.arange(384) < LENGTHS, 1, 0), 60),
    ],
    ids=["whole", "documents and windows", "documents and padding", "padding and windows"],
)
def test_kernels_equal_xla_in_output_and_gradients(segments, window, mesh_4x2, cudnn_by_jax, monkeypatch) -> None:
    """Each row has several blocks, with windows some without work; the kernels run under `vmap`, as in fine-tuning."""
    monkeypatch.setattr(kernels, "LARGEST_BLOCK", 128)
    monkeypatch.setattr(kernels, "LARGEST_LOCAL_BLOCK", 128)
    rng = np.random.default_rng(0)
    length = 256 if segments is None else segments.shape[1]
    qkv = jax.device_put(
        [rng.normal(size=(2, 4, length, 2, 8)).astype(np.float32) for _ in range(3)],
        jax.NamedSharding(mesh_4x2, spec("RBTNH")),
    )
    segments = None if segments is None else np.broadcast_to(segments, (4, length)).astype(np.int32)
    weights = jnp.sin(jnp.arange(length * 1.0))[:, None, None]
    # far from all tokens, padding sees none, and then each kernel computes something else
    is_real = segments[..., None, None] > 0 if window else 1.0

    def results(kernel):
        def total(q, k, v):
            mixed = kernel(q, k, v, segments, window=window) * is_real
            return jnp.sum(mixed * weights), mixed

        return jax.jit(jax.vmap(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)))(*qkv)

    wanted = results(functools.partial(kernels.xla, dropout_rate=0.0, key=None))
    assert_near(results(functools.partial(kernels.splash, interpret=True)), wanted, atol=2e-5)
    assert_near(results(kernels.cudnn), wanted, atol=2e-5)


SMALL_TILES = Tiling(Tile(32, 16), keys=Tile(16, 32), queries=Tile(32, 16))  # several in a row of 64 tokens


@pytest.mark.parametrize(
    ("attention", "segments", "dropout_rate", "window"),
    [
        ("standard", None, 0.1, 20),
        ("symmetric", np.where(np.arange(64) < SHORT, 1 + (np.arange(64) > SHORT // 2), 0), 0.5, 0),
        ("pairwise", np.arange(64) // np.array([[64], [25], [7], [1]]) + 1, 0.0, 0),
    ],
    ids=["standard, windows", "symmetric, documents and padding", "pairwise, documents"],
)
def test_triton_equals_xla_in_output_and_gradients(attention, segments, dropout_rate, window, mesh_4x2) -> None:
    """With dropout, the mask is the same, although each device draws that of its own rows and heads."""
    rng = np.random.default_rng(0)
    arrays = jax.device_put(
        [rng.normal(size=(2, 4, 64, 2, 32)).astype(np.float32) for _ in range(3)],
        jax.NamedSharding(mesh_4x2, spec("RBTNH")),
    )
    pair = rng.normal(size=(32, 32)).astype(np.float32) / 8
    segments = None if segments is None else segments.astype(np.int32)
    weights = jnp.sin(jnp.arange(64.0))[:, None, None]

    def results(kernel):
        def total(q, other, v, key):
            k = {"standard": other, "symmetric": q, "pairwise": q @ pair}[attention]
            mixed = kernel(q, k, v, segments, dropout_rate, key, window)
            return jnp.sum(mixed * weights), mixed

        gradients = jax.vmap(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))
        return jax.jit(gradients)(*arrays, jax.random.split(jax.random.key(0), 2))

    triton = functools.partial(kernels.triton, tiling=SMALL_TILES, interpret=True)
    (_, wanted_mixed), wanted_gradients = results(kernels.xla)
    (_, mixed), gradients = results(triton)
    np.testing.assert_allclose(mixed, wanted_mixed, atol=1e-5)
    assert_near(gradients, wanted_gradients, atol=1e-4)


def test_triton_drops_the_same_probabilities_as_xla(mesh_4x2) -> None:
    """With equal scores, whose exponentials overflow, and the identity as values, the output is the mask, scaled."""
    fives = jnp.full((4, 128, 2, 128), 5.0, out_sharding=spec("BTNH"))
    identity = jnp.broadcast_to(jnp.eye(128)[:, None], fives.shape, out_sharding=spec("BTNH"))

    def mask(kernel):
        kernel = functools.partial(kernel, segments=None, dropout_rate=0.1, key=jax.random.key(1))
        return np.asarray(jax.jit(kernel)(fives, fives, identity) > 0)

    found = mask(functools.partial(kernels.triton, tiling=SMALL_TILES, interpret=True))
    np.testing.assert_array_equal(found, mask(kernels.xla))
    assert 0.88 < found.mean() < 0.92


def packed() -> MlmBatch:
    """Returns rows of two documents, of 78 and 50, of 50 and 78, and of 78 and 49 tokens before a lone [SEP]; and a row
    of one document of 78 tokens and padding."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 128, (4, 128)).astype(np.int32)
    tokens[:, 0], tokens[:, -1], tokens[3, 78:-1] = 2, SEP, PAD
    tokens[(0, 1, 2, 2, 3), (77, 49, 77, 126, 77)] = SEP
    positions = np.array([[3, 50, 76, 78, 126], [1, 48, 50, 120, 0], [1, 9, 30, 76, 0], [2, 70, 0, 0, 0]], np.int32)
    weights = (positions > 0).astype(np.float32)
    return MlmBatch(tokens, positions, rng.integers(5, 128, (4, 5)).astype(np.int32), weights)


def unpack(batch: MlmBatch, length: int, documents: list[tuple[int, int]]) -> MlmBatch:
    """Returns some documents of a packed batch, which have `length` tokens, each in a row of its own.

    documents: the row and the start of each.
    """
    row, start = (np.array(numbers) for numbers in zip(*documents, strict=True))
    positions = batch.positions[row] - start[:, None]
    own = (positions >= 0) & (positions < length) & (batch.weights[row] == 1)
    tokens = np.stack([batch.tokens[i, first : first + length] for i, first in documents])
    return MlmBatch(tokens, np.where(own, positions, 0), batch.targets[row], own.astype(np.float32))


@pytest.mark.parametrize("width", kernels.TRITON_WIDTHS)
def test_scaled_score_of_invisible_token_is_exact(width) -> None:
    """A fused multiply-add, which interpret mode does not have, would otherwise make NaN of a tile without keys."""
    masked, scale = np.float32(MASKED), np.float32(width**-0.5 * math.log2(math.e))
    assert float(masked) * float(scale) == float(masked * scale)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_packed_documents_equal_documents_in_own_rows(attention, mesh, cudnn_by_jax, monkeypatch) -> None:
    """Without `cross_document`, both have the same loss and the same gradients of the whole model.

    With it, a document that is alone in its row does not see the padding of the row.
    """
    model = dataclasses.replace(TINY, attention=attention)
    params, batch = init_params_numpy(model), packed()

    @functools.partial(jax.jit, static_argnames=("kernel", "cross_document", "pad"))
    def run(kernel, cross_document, batch, pad=None):
        monkeypatch.setattr(kernels, "choose", lambda *_: kernel)

        def loss(params):
            sums = mlm_objective(model, params, batch, key=None, cross_document=cross_document, pad=pad)
            return sums["loss"][0], sums

        return jax.value_and_grad(loss, has_aux=True)(params)

    parts = (
        run("xla", cross_document=True, batch=unpack(batch, length=78, documents=[(0, 0), (1, 50), (2, 0), (3, 0)])),
        run("xla", cross_document=True, batch=unpack(batch, length=50, documents=[(0, 78), (1, 0)])),
    )
    wanted = jax.tree.map(lambda one, other: np.asarray(one) + np.asarray(other), *parts)
    assert wanted[0][1]["loss"][1] == batch.weights.sum()
    # one attention is enough for these kernels, which have the output and the gradients of xla for any q, k and v
    for kernel in ("xla", "short", "splash", "cudnn") if attention == "pairwise" else ("xla", "short"):
        assert_near(run(kernel, cross_document=False, batch=batch), wanted, atol=2e-5)
    if attention == "pairwise":  # which tokens see each other does not depend on the attention
        padded = batch._replace(weights=batch.weights * np.float32([[0], [0], [0], [1]]))
        alone = unpack(padded, length=78, documents=[(0, 0), (1, 50), (2, 0), (3, 0)])
        wanted_alone = run("xla", cross_document=True, batch=alone)
        assert_near(run("xla", cross_document=True, batch=padded, pad=PAD), wanted_alone, atol=2e-5)
    cross_document_loss = jax.jit(mlm_objective, static_argnums=0)(model, params, batch, key=None)["loss"][0]
    assert abs(cross_document_loss - wanted[0][0]) > 1e-3, "documents that see each other have another loss"


NO_DROPOUT, WITH_DROPOUT = ModelConfig(attention_dropout=0.0), ModelConfig()


def change(**fields) -> ModelConfig:
    return dataclasses.replace(NO_DROPOUT, **fields)


@pytest.mark.parametrize(
    ("model", "device", "counts", "wanted"),  # counts of queries and of keys
    [
        (NO_DROPOUT, TPU, (512, 512), "short"),
        (NO_DROPOUT, H100, (512, 512), "cudnn"),
        (NO_DROPOUT, CPU, (512, 512), "xla"),
        (NO_DROPOUT, V100, (512, 512), "xla"),
        (WITH_DROPOUT, TPU, (512, 512), "short"),
        (WITH_DROPOUT, TPU, (4096, 4096), "short"),
        (WITH_DROPOUT, TPU_V4, (4096, 4096), "xla"),
        (NO_DROPOUT, TPU_V4, (4096, 4096), "splash"),
        (WITH_DROPOUT, H100, (512, 512), "triton"),
        (WITH_DROPOUT, V100, (512, 512), "xla"),
        (WITH_DROPOUT, H100, (96, 96), "xla"),
        (NO_DROPOUT, TPU, (1, 512), "xla"),
        (NO_DROPOUT, TPU, (96, 96), "xla"),
        (NO_DROPOUT, H100, (96, 96), "cudnn"),
        (NO_DROPOUT, H100, (97, 97), "xla"),
        (change(dtype="float32"), H100, (512, 512), "triton"),
        (change(heads=6), H100, (512, 512), "cudnn"),
        (change(heads=4), H100, (512, 512), "xla"),
        (change(key_dim=32), TPU, (512, 512), "short"),
        (change(key_dim=32, kernel="splash"), TPU, (512, 512), "xla"),
        (change(key_dim=64, kernel="splash"), TPU, (512, 512), "splash"),
        (change(kernel="xla"), TPU, (512, 512), "xla"),
        (change(kernel="splash"), TPU, (512, 512), "splash"),
        (change(kernel="splash"), CPU, (512, 512), "xla"),
        (change(kernel="short"), CPU, (512, 512), "xla"),
        (change(kernel="cudnn"), TPU, (512, 512), "xla"),
        (change(kernel="triton"), H100, (512, 512), "triton"),
        (change(kernel="triton"), CPU, (512, 512), "xla"),
    ],
    ids=str,
)
def test_choose_returns_fastest_possible_kernel(model, device, counts, wanted) -> None:
    num_queries, num_keys = counts
    assert kernels.choose(model, device, num_queries, num_keys) == wanted


@pytest.mark.parametrize(
    ("model", "device", "message"),
    [
        (
            dataclasses.replace(WITH_DROPOUT, kernel="splash"),
            TPU,
            "'splash' with model.attention_dropout=0.1, wanted 0",
        ),
        (change(kernel="splash"), CPU, "'splash' with a cpu, wanted a TPU; model.kernel=auto"),
        (change(kernel="splash", length=192), TPU, "'splash' with 192 tokens, wanted a multiple of 128"),
        (change(kernel="short", length=192), TPU, "'short' with 192 tokens, wanted a multiple of 128"),
        (change(kernel="short", length=16384), TPU, "'short' with 16384 tokens, wanted at most 8192"),
        (change(kernel="short"), CPU, "'short' with a cpu, wanted a TPU; model.kernel=auto"),
        (change(kernel="splash", key_dim=32), TPU, "'splash' with model.key_dim=32, wanted 0 or 64: here keys"),
        (change(kernel="cudnn"), TPU, "'cudnn' with a tpu, wanted an NVIDIA GPU"),
        (change(kernel="cudnn"), V100, "'cudnn' with Tesla V100.*wanted .*Ampere generation or later"),
        (change(kernel="cudnn", dtype="float32"), H100, "'cudnn' with model.dtype=float32, wanted bfloat16"),
        (change(kernel="cudnn", heads=4), H100, "'cudnn' with heads of width 192, wanted a multiple of 8 up to 128"),
        (change(kernel="triton"), CPU, "'triton' with a cpu, wanted an NVIDIA GPU"),
        (change(kernel="triton"), V100, "'triton' with Tesla V100.*wanted .*Ampere generation or later"),
        (change(kernel="triton", length=96), H100, "'triton' with 96 tokens, wanted a multiple of 64"),
        (change(kernel="triton", heads=4), H100, "'triton' with heads of width 192, wanted 32, 64 or 128"),
    ],
    ids=str,
)
def test_check_names_what_the_kernel_lacks(model, device, message) -> None:
    with pytest.raises(UserError, match=f"model.kernel: found {message}"):
        kernels.check(model, device)


def test_check_accepts_possible_kernels() -> None:
    for kernel, device in (
        ("short", TPU),
        ("splash", TPU),
        ("cudnn", H100),
        ("xla", CPU),
        ("auto", CPU),
        ("auto", V100),
    ):
        kernels.check(change(kernel=kernel), device)
    kernels.check(dataclasses.replace(WITH_DROPOUT, kernel="triton"), H100)


def abstract_mesh(device: AbstractDevice) -> AbstractMesh:
    return AbstractMesh((2, 2), ("data", "model"), (AxisType.Explicit,) * 2, abstract_device=device)


def gradients(model: ModelConfig):
    """Returns a jitted function of parameters and tokens: the gradient of the sum of logits, one document a row."""

    def total(params, tokens):
        return bert.logits(model, params, tokens, tokens[:, :4], segments=jnp.ones_like(tokens)).sum()

    return jax.jit(jax.grad(total))


TOKENS = jax.ShapeDtypeStruct((2, 128), jnp.int32)


@pytest.mark.parametrize(("device", "wanted"), [(TPU, True), (CPU, False)], ids=["tpu", "cpu"])
def test_kernel_is_chosen_by_mesh_not_by_host(device, wanted) -> None:
    with jax.sharding.use_abstract_mesh(abstract_mesh(device)):
        traced = gradients(TINY).trace(init_params_numpy(TINY), TOKENS)
        program = traced.lower(lowering_platforms=(device.platform,)).as_text()
    assert ("tpu_custom_call" in program) == wanted


def test_cudnn_lowers_for_gpus(mesh_4x2, monkeypatch) -> None:
    """Lowering needs only the version of cuDNN, which the test makes up; nothing is compiled or run."""
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(kernels, "choose", lambda *_: "cudnn")
    model = dataclasses.replace(TINY, dtype="bfloat16")
    tokens = jax.ShapeDtypeStruct((4, 128), jnp.int32, sharding=jax.NamedSharding(mesh_4x2, spec("BT")))
    program = gradients(model).trace(init_params_numpy(model), tokens).lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmhaScaleBiasSoftmax(" in program and "__cudnn$fmhaScaleBiasSoftmaxBackward(" in program


@pytest.mark.parametrize(("dtype", "width"), [("bfloat16", 64), ("float32", 128)])
def test_triton_lowers_for_gpus(dtype, width) -> None:
    """Lowering makes the program for Triton, which would compile it; the mesh has an H100 as its abstract device."""
    model = change(dim=4 * width, heads=4, attention_dropout=0.1, kernel="triton")
    mesh = abstract_mesh(H100)
    q = jax.ShapeDtypeStruct((3, 2, 512, 4, width), dtype, sharding=jax.NamedSharding(mesh, spec("RBTNH")))
    segments = jax.ShapeDtypeStruct((3, 2, 512), jnp.int32)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 3))

    def gradients(*arrays):
        def total(q, k, v, segments, key):
            mixed = [kernels.attend(model, q, k, v, segments, key, window) for window in (0, 128)]
            return sum(mixed).astype(jnp.float32).sum()

        return jax.grad(total, argnums=(0, 1, 2))(*arrays)

    with jax.sharding.use_abstract_mesh(mesh):
        traced = jax.jit(jax.vmap(gradients)).trace(q, q, q, segments, keys)
        program = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert program.count("custom_call @__gpu$xla.gpu.triton(") == 6


def test_classifier_computes_its_last_layer_with_xla() -> None:
    """The only query of the last layer is [CLS], for which there is no fused kernel."""
    model, num_outputs = dataclasses.replace(TINY, layers=2), 3
    params = {
        **init_params_numpy(model),
        "head": jax.eval_shape(lambda: classifier.init_head(model, num_outputs, jax.random.key(0))),
    }

    def run(params, tokens):
        return classifier.logits(model, num_outputs, params, tokens, token_types=tokens, mask=tokens > 0)

    with jax.sharding.use_abstract_mesh(abstract_mesh(TPU)):
        program = str(jax.make_jaxpr(run)(params, TOKENS))
    assert program.count("= pallas_call") == 1
    assert "f32[2@data,4@model,1,128] = dot_general" in program
