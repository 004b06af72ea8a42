"""The model, compared with the paper's own PyTorch code and with other settings of itself."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from symbert_jax.config import ATTENTIONS, MeshConfig, ModelConfig
from symbert_jax.interop import folder, tensors
from symbert_jax.interop.architecture import AFFINITY, to_model
from symbert_jax.model import bert
from symbert_jax.model.kernels import probabilities
from symbert_jax.sharding import make_mesh
from tests.conftest import configure, init_params_numpy, make_batch
from tests.forms import MODERN

FIXTURES = Path(__file__).parents[1] / "fixtures" / "plpi"


def load_plpi(attention):
    """Returns config and parameters of a tiny model of the paper's code, read as by `import`, and recorded outputs."""
    source = epath.Path(FIXTURES / AFFINITY[attention])
    found = folder.read(source)
    config = to_model(found.config, str(source))
    assert config.attention == attention
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        shapes = bert.abstract(config, MeshConfig())
    params = tensors.from_torch(tensors.canonical(found.tensors, str(source))[0], shapes, str(source))
    return config, params, np.load(source / "expected.npz")


def all_logits(config, params, expected):
    """Returns the logits at all positions of the recorded inputs."""
    tokens = jnp.asarray(expected["input_ids"])
    return bert.logits(
        config,
        params,
        tokens,
        jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape),
        token_types=jnp.asarray(expected["token_type_ids"]),
        segments=jnp.asarray(expected["attention_mask"]),
    )


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_logits_loss_and_gradients_equal_the_papers_code(attention, mesh):
    config, params, expected = load_plpi(attention)
    labels = jnp.asarray(expected["labels"])

    def loss(params):
        logits = all_logits(config, params, expected)
        targets = labels[..., None] == jnp.arange(config.vocab_size)  # all False if the label is -100
        return -jnp.sum(jnp.where(targets, jax.nn.log_softmax(logits), 0)) / jnp.sum(labels >= 0), logits

    (value, logits), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    is_real = expected["attention_mask"] == 1  # the logits of padding are undefined
    np.testing.assert_allclose(np.asarray(logits)[is_real], expected["logits"][is_real], atol=1e-5)
    np.testing.assert_allclose(value, expected["loss"], atol=1e-5)
    wanted = {name.removeprefix("grad/"): expected[name] for name in expected.files if name.startswith("grad/")}
    found = jax.tree.map(lambda leaf: np.asarray(leaf[0]), gradients["layers"]["attention"])
    found["output_norm"] = jax.tree.map(lambda leaf: np.asarray(leaf[0]), gradients["layers"]["attention_norm"])
    prefix = "bert.encoder.layer.0.attention"
    for ours, theirs in (
        ("query", "self.query"),
        ("value", "self.value"),
        ("key", "self.key"),
        ("output", "output.dense"),
    ):
        if ours in found:
            kernel = wanted.pop(f"{prefix}.{theirs}.weight").T
            np.testing.assert_allclose(found[ours]["kernel"].reshape(kernel.shape), kernel, atol=1e-4)
            np.testing.assert_allclose(
                found[ours]["bias"].reshape(-1), wanted.pop(f"{prefix}.{theirs}.bias"), atol=1e-4
            )
    for ours, theirs in (("scale", "weight"), ("bias", "bias")):
        np.testing.assert_allclose(
            found["output_norm"][ours], wanted.pop(f"{prefix}.output.LayerNorm.{theirs}"), atol=1e-4
        )
    if attention == "pairwise":
        np.testing.assert_allclose(found["pair"], wanted.pop(f"{prefix}.self.pairwise_factors"), atol=1e-4)
    assert not wanted, "recorded gradients that nothing was compared with"


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_attention_probabilities_equal_the_papers_code(attention, mesh):
    config, params, expected = load_plpi(attention)
    model = bert.module(config, params)
    first_layer = bert.module(config, params | {"layers": jax.tree.map(lambda leaf: leaf[0], params["layers"])}).layers
    x = model.embeddings(jnp.asarray(expected["input_ids"]), jnp.asarray(expected["token_type_ids"]))
    found = probabilities(*first_layer.attention.query_key(x), jnp.asarray(expected["attention_mask"]))
    np.testing.assert_allclose(found, expected["attention_0"], atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"attention": "standard"},
        {"attention": "symmetric", "layers": 1},
        {"attention": "pairwise", "remat": "full", "unroll": 2},
        MODERN,
    ],
    ids=str,
)
def test_first_tokens_equal_those_of_the_whole_encoder(change, mesh):
    config = configure(model=change).model
    tokens = jnp.asarray(make_batch(configure(), rows=3).tokens)
    segments = (jnp.arange(16) < jnp.array([[16], [9], [1]])).astype(jnp.int32)

    def encode(params, num_queries):
        model = bert.module(config, params)
        x = model.encode(model.embeddings(tokens), segments, num_queries=num_queries)[:, :2]
        return jnp.sum(x * jnp.sin(jnp.arange(x.size).reshape(x.shape))), x

    run = jax.jit(jax.grad(encode, has_aux=True), static_argnums=1)
    (found_gradients, found), (gradients, wanted) = (run(init_params_numpy(config), count) for count in (2, None))
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), found_gradients, gradients)


BASE, SMALL = ModelConfig(), ModelConfig(layers=4, dim=512, heads=8, mlp_dim=2048)


@pytest.mark.parametrize(
    ("model", "attention", "form", "wanted"),
    [
        (BASE, "standard", "full", 109_514_298),
        (BASE, "symmetric", "full", 102_427_194),
        (BASE, "pairwise", "full", 103_017_018),
        (BASE, "pairwise", "diagonal", 102_427_194 + 12 * 768),
        (SMALL, "standard", "full", 28_795_194),
        (SMALL, "symmetric", "full", 27_744_570),
        (SMALL, "pairwise", "full", 27_875_642),
    ],
)
def test_parameter_counts_are_exact(model, attention, form, wanted):
    assert bert.size(dataclasses.replace(model, attention=attention, pairwise_form=form)) == wanted


@pytest.fixture(scope="module")
def tokens():
    return jnp.asarray(np.random.default_rng(0).integers(0, 128, (3, 16)))


@functools.partial(jax.jit, static_argnums=0)
def logits_of(config, params, tokens, key=None):
    positions = tokens[:, :5] % tokens.shape[1]  # any positions do
    return bert.logits(config.model, params, tokens, positions, key=key)


def test_scan_and_remat_change_nothing(mesh, tokens):
    plain_fields = {"attention": "pairwise", "layers": 4}
    plain = configure(model=plain_fields)
    params = init_params_numpy(plain.model)

    def value_and_gradient(config):
        def total(params):
            return jnp.square(logits_of(config, params, tokens, key=jax.random.key(1))).mean()

        traced = jax.jit(jax.value_and_grad(total)).trace(params)
        return traced.lower().compile()(params), str(traced.jaxpr)

    wanted, program = value_and_gradient(plain)
    assert "remat" not in program and "checkpoint" not in program
    for change in ({"unroll": 2}, {"remat": "dots"}, {"unroll": 0, "remat": "full"}):
        found, program = value_and_gradient(configure(model=plain_fields | change))
        assert ("remat" in program or "checkpoint" in program) == ("remat" in change), change
        unrolled = {"unroll=2": change.get("unroll") == 2, "unroll=4": change.get("unroll") == 0}
        assert unrolled == {text: text in program for text in unrolled}, change
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), found, wanted)


@pytest.mark.parametrize(
    ("fields", "barriers"), [({}, False), ({"unroll": 4}, True), ({"window": 4, "global_every": 4}, True)], ids=str
)
def test_remat_prevents_merging_where_there_is_no_loop(mesh, tokens, fields, barriers):
    """The compiler for v5e merged the last layer of an unrolled model with its recomputation."""
    config = configure(model={"layers": 4, "remat": "full"} | fields)

    def total(params):
        return jnp.square(logits_of(config, params, tokens)).mean()

    program = jax.jit(jax.grad(total)).lower(init_params_numpy(config.model)).as_text()
    assert ("optimization_barrier" in program) == barriers


@pytest.mark.parametrize(
    "fields", [*({"attention": attention} for attention in (*ATTENTIONS, "uniform")), MODERN], ids=str
)
def test_padding_never_leaks(mesh, tokens, fields):
    """The gradient of the logits of real tokens with respect to padded positions is exactly 0."""
    config = configure(model=fields)
    params = init_params_numpy(config.model)
    segments = jnp.broadcast_to(jnp.where(jnp.arange(16) < 11, 1, 0), tokens.shape)  # 11 real tokens, 5 of padding

    def real_logits(x):
        model = bert.module(config.model, params)
        x = model.encode(x, segments)
        return model.predict(x, jnp.broadcast_to(jnp.arange(11), (3, 11)), model.embeddings.table()).sum()

    x = bert.module(config.model, params).embeddings(tokens)
    gradient = jax.jit(jax.grad(real_logits))(x)
    assert np.abs(gradient[:, :11]).max() > 0
    np.testing.assert_array_equal(gradient[:, 11:], 0)


def test_dropout_depends_on_key_and_is_off_without_one(mesh, tokens):
    config = configure()
    params = init_params_numpy(config.model)
    first, again, other, off = (
        logits_of(config, params, tokens, key=key)
        for key in (jax.random.key(1), jax.random.key(1), jax.random.key(2), None)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    assert np.abs(first - off).max() > 1e-3


def test_bfloat16_stays_near_float32(mesh, tokens):
    exact, rounded = configure(), configure(model={"dtype": "bfloat16"})
    params = init_params_numpy(exact.model)
    found = logits_of(rounded, params, tokens)
    assert found.dtype == jnp.float32
    wanted = logits_of(exact, params, tokens)
    assert np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < 0.03


def test_initial_parameters_are_the_papers(mesh):
    config = configure(model={"attention": "pairwise", "dim": 256, "mlp_dim": 512})
    wider = configure(model=dataclasses.asdict(config.model) | {"initializer_range": 0.06})
    params, wider_params = (bert.init(each.model, MeshConfig(), jax.random.key(0)) for each in (config, wider))
    for path in (("embeddings", "word"), ("layers", "mlp", "up", "kernel"), ("layers", "attention", "query", "kernel")):
        kernel, wider_kernel = (functools.reduce(dict.__getitem__, path, tree) for tree in (params, wider_params))
        assert np.std(kernel) == pytest.approx(0.02, rel=0.02)
        assert np.abs(kernel).max() > 0.06, "a truncated normal ends at 0.04"
        np.testing.assert_allclose(wider_kernel, 3 * kernel, rtol=1e-5)
    np.testing.assert_array_equal(wider_params["layers"]["attention"]["pair"], params["layers"]["attention"]["pair"])
    pair = np.asarray(params["layers"]["attention"]["pair"])
    assert pair.mean() == pytest.approx(0, abs=0.02) and np.std(pair) == pytest.approx(1, rel=0.02)
    assert np.abs(pair[0] - pair[1]).max() > 1, "layers have different initial values"
