"""Every kernel computes what xla computes, and each runs where it can."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from symbert_jax.batch import MlmBatch
from symbert_jax.config import ATTENTIONS, Mesh, Model, UserError
from symbert_jax.model import bert, classifier, kernels
from symbert_jax.sharding import make_mesh, spec
from symbert_jax.train.step import loss
from tests.conftest import born, configure

CPU = AbstractDevice(device_kind="cpu", num_cores=None, platform="cpu")
TPU = AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")
H100 = AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=None, platform="gpu")
V100 = AbstractDevice(device_kind="Tesla V100-SXM2-16GB", num_cores=None, platform="gpu")

SEP = 3
TINY = configure(model={"layers": 1, "length": 128, "attention_dropout": 0.0}).model
LENGTHS = np.array([[256], [200], [3], [1]])  # tokens of four padded rows


@pytest.fixture
def mesh4():
    """Four devices along the batch and two along the heads."""
    mesh = make_mesh(Mesh(data=4, model=2))
    with jax.set_mesh(mesh):
        yield mesh


@pytest.fixture
def cudnn_by_jax(monkeypatch):
    """`jax.nn.dot_product_attention(implementation="cudnn")` is carried out by JAX's own code, as there is no GPU."""
    real = jax.nn.dot_product_attention

    def stand_in(*arguments, implementation, **others):
        assert implementation == "cudnn"
        return real(*arguments, implementation="xla", **others)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)


def assert_near(found, wanted, atol: float) -> None:
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=atol, rtol=1e-4), found, wanted)


@pytest.mark.parametrize(
    "segments",
    [
        None,
        np.arange(256) // np.array([[256], [100], [7], [1]]) + 1,
        np.where(np.arange(256) < LENGTHS, 1 + (np.arange(256) >= LENGTHS // 2), 0),
    ],
    ids=["whole", "documents", "documents and padding"],
)
def test_output_and_gradients_are_those_of_xla(segments, mesh4, cudnn_by_jax, monkeypatch) -> None:
    """Over several blocks, and side by side under `vmap` as in fine-tuning."""
    monkeypatch.setattr(kernels, "BLOCK", 128)
    rng = np.random.default_rng(0)
    qkv = jax.device_put(
        [rng.normal(size=(2, 4, 256, 2, 8)).astype(np.float32) for _ in range(3)],
        jax.NamedSharding(mesh4, spec("RBTNH")),
    )
    segments = None if segments is None else np.broadcast_to(segments, (4, 256)).astype(np.int32)
    weights = jnp.sin(jnp.arange(256.0))[:, None, None]

    def results(kernel):
        def total(q, k, v):
            mixed = kernel(q, k, v, segments)
            return jnp.sum(mixed * weights), mixed

        return jax.jit(jax.vmap(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)))(*qkv)

    wanted = results(lambda *arrays: kernels.xla(*arrays, 0.0, None))
    assert_near(results(functools.partial(kernels.splash, interpret=True)), wanted, 2e-5)
    assert_near(results(kernels.cudnn), wanted, 2e-5)


def documents_in_rows() -> MlmBatch:
    """Two rows of four documents; behind the last of them its row closes with a [SEP] by itself."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 128, (2, 128)).astype(np.int32)
    tokens[:, 0], tokens[:, -1], tokens[0, 49], tokens[1, 99], tokens[1, 126] = 2, SEP, SEP, SEP, SEP
    positions = np.array([[3, 20, 48, 50, 90, 126], [1, 98, 100, 101, 125, 0]], np.int32)
    weights = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]], np.float32)
    return MlmBatch(tokens, positions, rng.integers(5, 128, (2, 6)).astype(np.int32), weights)


def alone(batch: MlmBatch) -> list[MlmBatch]:
    """Each document of `documents_in_rows` that has masked positions, as a row of its own."""
    found = []
    for row, start, end in ((0, 0, 50), (0, 50, 128), (1, 0, 100), (1, 100, 127)):
        own = (batch.positions[row] >= start) & (batch.positions[row] < end) & (batch.weights[row] == 1)
        masked = batch.positions[row, own] - start, batch.targets[row, own], batch.weights[row, own]
        found.append(MlmBatch(batch.tokens[row, start:end][None], *(leaf[None] for leaf in masked)))
    return found


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_documents_kept_apart_are_documents_run_alone(attention, mesh, cudnn_by_jax, monkeypatch) -> None:
    """Loss and every gradient of the whole model, through every kernel."""
    model = dataclasses.replace(TINY, attention=attention)
    batch = documents_in_rows()

    def run(batch, kernel, cross_document):
        monkeypatch.setattr(kernels, "choose", lambda *_: kernel)
        total = functools.partial(loss, model, batch=batch, key=None, cross_document=cross_document)
        return jax.jit(jax.value_and_grad(total, has_aux=True))(born(model))

    parts = [run(part, "xla", True) for part in alone(batch)]
    wanted = jax.tree.map(lambda *leaves: sum(map(np.asarray, leaves)), *parts)
    assert wanted[0][1]["count"] == batch.weights.sum()
    for kernel in ("xla", *kernels.FUSED):
        assert_near(run(batch, kernel, False), wanted, 2e-5)
    assert abs(run(batch, "xla", True)[0][0] - wanted[0][0]) > 1e-3, "documents that see each other differ"


FAST, SLOW = Model(attention_dropout=0.0), Model()


def change(**fields) -> Model:
    return dataclasses.replace(FAST, **fields)


@pytest.mark.parametrize(
    ("model", "device", "tokens", "wanted"),
    [
        (FAST, TPU, (512, 512), "splash"),
        (FAST, H100, (512, 512), "cudnn"),
        (FAST, CPU, (512, 512), "xla"),
        (FAST, V100, (512, 512), "xla"),
        (SLOW, TPU, (512, 512), "xla"),
        (SLOW, H100, (512, 512), "xla"),
        (FAST, TPU, (1, 512), "xla"),
        (FAST, TPU, (96, 96), "xla"),
        (FAST, H100, (96, 96), "cudnn"),
        (change(dtype="float32"), H100, (512, 512), "xla"),
        (change(heads=6), H100, (512, 512), "cudnn"),
        (change(heads=4), H100, (512, 512), "xla"),
        (change(kernel="xla"), TPU, (512, 512), "xla"),
        (change(kernel="splash"), TPU, (512, 512), "splash"),
        (change(kernel="splash"), CPU, (512, 512), "xla"),
        (change(kernel="cudnn"), TPU, (512, 512), "xla"),
    ],
    ids=str,
)
def test_the_fastest_kernel_that_can_is_chosen(model, device, tokens, wanted) -> None:
    assert kernels.choose(model, device, *tokens) == wanted


@pytest.mark.parametrize(
    ("model", "device", "message"),
    [
        (dataclasses.replace(SLOW, kernel="splash"), TPU, "'splash' with model.attention_dropout=0.1, wanted 0"),
        (change(kernel="splash"), CPU, "'splash' with a cpu, wanted a TPU; model.kernel=auto"),
        (change(kernel="splash", length=192), TPU, "'splash' with 192 tokens, wanted a multiple of 128"),
        (change(kernel="cudnn"), TPU, "'cudnn' with a tpu, wanted an NVIDIA GPU"),
        (change(kernel="cudnn"), V100, "'cudnn' with Tesla V100.*wanted .*Ampere or later"),
        (change(kernel="cudnn", dtype="float32"), H100, "'cudnn' with model.dtype=float32, wanted bfloat16"),
        (change(kernel="cudnn", heads=4), H100, "'cudnn' with heads of width 192, wanted a multiple of 8 up to 128"),
    ],
    ids=str,
)
def test_what_cannot_be_is_one_clear_error(model, device, message) -> None:
    with pytest.raises(UserError, match=f"model.kernel: found {message}"):
        kernels.check(model, device)


def test_what_can_be_is_no_error() -> None:
    for kernel, device in (("splash", TPU), ("cudnn", H100), ("xla", CPU), ("auto", CPU), ("auto", V100)):
        kernels.check(change(kernel=kernel), device)


def abstract_mesh(device: AbstractDevice) -> AbstractMesh:
    return AbstractMesh((2, 2), ("data", "model"), (AxisType.Explicit,) * 2, abstract_device=device)


@pytest.mark.parametrize("device", [TPU, H100, CPU], ids=lambda device: device.platform)
def test_the_program_is_for_the_mesh_whatever_the_host_is(device, monkeypatch) -> None:
    """Forward and backward lower for a platform that is not here; of cuDNN only its version has to be made up."""
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91000)
    model = dataclasses.replace(TINY, dtype="bfloat16")
    names = {"tpu": "tpu_custom_call", "gpu": "__cudnn$fmha", "cpu": "no name"}

    def total(params, tokens):
        segments = jnp.ones_like(tokens)
        return bert.logits(model, params, tokens, tokens[:, :4], segments=segments).sum()

    with jax.sharding.use_abstract_mesh(abstract_mesh(device)):
        tokens = jax.ShapeDtypeStruct((2, 128), jnp.int32)
        platform = "cuda" if device is H100 else device.platform
        lowered = jax.jit(jax.grad(total)).trace(born(model), tokens).lower(lowering_platforms=(platform,))
    program = lowered.as_text()
    for platform, name in names.items():
        assert (name in program) == (platform == device.platform)


def test_a_classifier_takes_its_last_layer_to_xla() -> None:
    """There only [CLS] is a query, which no fused kernel takes."""
    model = dataclasses.replace(TINY, layers=2)
    params = {**born(model), "head": jax.eval_shape(lambda: classifier.init_head(model, 3, jax.random.key(0)))}
    tokens = jax.ShapeDtypeStruct((2, 128), jnp.int32)

    def run(params, tokens):
        return classifier.logits(model, 3, params, tokens, token_types=tokens, mask=tokens > 0)

    with jax.sharding.use_abstract_mesh(abstract_mesh(TPU)):
        program = str(jax.make_jaxpr(run)(params, tokens))
    assert program.count("= pallas_call") == 1 and "4,1,128" in program
