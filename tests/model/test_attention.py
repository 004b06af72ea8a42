"""The scores of the variants of attention, compared with each other and with their formulas."""

import ast
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractDevice

import symbert_jax
from symbert_jax.config import ATTENTIONS, MeshConfig
from symbert_jax.errors import UserError
from symbert_jax.interop.fold import fold, to_papers_form
from symbert_jax.model import bert, kernels, positions, tpu_layouts, tree
from symbert_jax.model.attention import find_variant, symmetry
from symbert_jax.sharding import make_mesh, put_batch
from symbert_jax.train import state as states
from symbert_jax.train.step import make_train_step
from tests.conftest import configure, init_params_numpy, make_batch
from tests.forms import FORMS


@pytest.fixture
def scores(mesh):
    """`scores(attention, pair=...)` returns the scores [B N T S] of one layer on a fixed input, and its weights."""

    def score(attention, form="full", **weights):
        config = configure(model={"attention": attention, "pairwise_form": form}).model
        params = init_params_numpy(config)
        layer = jax.tree.map(lambda leaf: leaf[0], params["layers"])
        # the same query for all variants, so that only their scores differ
        layer["attention"]["query"]["kernel"] = jax.random.normal(jax.random.key(5), (32, 4, 8)) / 6
        layer["attention"]["query"]["bias"] = jax.random.normal(jax.random.key(6), (4, 8)) / 6
        layer["attention"] |= weights
        module = bert.module(config, params | {"layers": layer}).layers.attention
        q, k = module.query_key(jax.random.normal(jax.random.key(7), (2, 16, 32)))
        return np.asarray(jnp.einsum("BTNH,BSNH->BNTS", q, k)), layer["attention"]

    return score


def test_symmetric_scores_are_symmetric(scores):
    found, _ = scores("symmetric")
    np.testing.assert_allclose(found, found.swapaxes(2, 3), atol=1e-6)
    for attention in ("standard", "pairwise"):
        other, _ = scores(attention)
        assert np.abs(other - other.swapaxes(2, 3)).max() > 0.1


@pytest.mark.parametrize("attention", ["standard", "symmetric", "pairwise"])
def test_keys_are_the_queries_where_is_symmetric_says_so(attention, mesh):
    """A kernel that is told so never looks at the keys; rotary positions change both alike."""
    config = configure(model={"attention": attention, "positions": "rope"}).model
    params = init_params_numpy(config)
    layer = jax.tree.map(lambda leaf: leaf[0], params["layers"])
    module = bert.module(config, params | {"layers": layer}).layers.attention
    x = jax.random.normal(jax.random.key(7), (2, 16, 32))
    q, k = module.rotated_query_key(x, rotation=positions.rotation(config, 0, 16))
    assert np.array_equal(q, k) == module.is_symmetric
    assert not np.array_equal(q, module.query_key(x)[0])


def test_pairwise_with_identity_is_symmetric(scores):
    wanted, _ = scores("symmetric")
    found, _ = scores("pairwise", pair=jnp.broadcast_to(jnp.eye(8), (4, 8, 8)))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_diagonal_pair_equals_full_diagonal_matrix(scores):
    diagonal = jax.random.normal(jax.random.key(8), (4, 8))
    wanted, _ = scores("pairwise", pair=diagonal[..., None] * jnp.eye(8))
    found, _ = scores("pairwise", form="diagonal", pair=diagonal)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_low_rank_pair_equals_full_matrix(scores):
    left, right = jax.random.normal(jax.random.key(8), (2, 4, 8, 3))
    wanted, _ = scores("pairwise", pair=jnp.eye(8) + left @ right.swapaxes(1, 2))
    found, _ = scores("pairwise", form="low_rank", pair_left=left, pair_right=right)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    start, weights = scores("pairwise", form="low_rank")
    np.testing.assert_allclose(start, scores("symmetric")[0], atol=1e-6)
    assert np.abs(weights["pair_left"]).max() > 0.3, "with A = B = 0, both gradients would be 0"


def test_standard_with_query_as_key_is_symmetric(scores):
    wanted, weights = scores("symmetric")
    found, _ = scores("standard", key=weights["query"])
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])  # a TPU multiplies by copies of P
def test_pairwise_is_q_P_q_with_query_on_the_left(scores, platform, monkeypatch):
    device = AbstractDevice(device_kind=platform, num_cores=None, platform=platform)
    monkeypatch.setattr(tpu_layouts, "device", lambda: device)
    pair = np.zeros((4, 8, 8), np.float32)
    pair[:, 0, 1] = 1  # then the score is q_t[0] q_s[1]
    found, weights = scores("pairwise", pair=jnp.asarray(pair))
    x = jax.random.normal(jax.random.key(7), (2, 16, 32))
    q = np.einsum("BTD,DNH->BTNH", x, weights["query"]["kernel"]) + np.asarray(weights["query"]["bias"])
    np.testing.assert_allclose(found, np.einsum("BTN,BSN->BNTS", q[..., 0], q[..., 1]), atol=1e-5)


def test_only_attention_knows_the_variants():
    """Besides `attention/`, only modules that list the values of config fields, ours and the paper's, name them."""
    package = pathlib.Path(symbert_jax.__file__).parent
    files = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if path.parent.name != "attention"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
        and node.value in ("symmetric", "pairwise", "uniform", "diagonal", "low_rank", "unit")
    }
    assert files == {"config/schema.py", "interop/architecture.py"}


def test_symmetric_and_pairwise_have_no_key_projection(mesh):
    """A standard layer has four D x D matrix products, the others have three."""

    def count_projections(attention):
        config = configure(model={"attention": attention}).model
        tokens = jnp.zeros((3, 16), jnp.int32)
        params = init_params_numpy(config)
        program = jax.make_jaxpr(lambda params: bert.logits(config, params, tokens, tokens[:, :4]))(params)
        (scan,) = [eqn for eqn in program.eqns if eqn.primitive.name == "scan"]
        shapes = [
            sorted(np.prod(v.aval.shape) for v in eqn.invars)
            for eqn in scan.params["jaxpr"].eqns
            if eqn.primitive.name == "dot_general"
        ]
        return sum(shape == [32 * 32, 3 * 16 * 32] for shape in shapes)

    assert [count_projections(attention) for attention in ATTENTIONS] == [4, 3, 3]


def make_attention(**fields):
    """Returns the attention of a layer with heads of width 128, on the current mesh."""
    config = configure(model={"dim": 512, "vocab_size": 128, **fields}).model
    return find_variant(config)(config, nnx.Rngs(0))


@pytest.mark.parametrize(
    ("form", "init", "wanted"),
    [
        ("full", "normal", ("normal", 1)),
        ("full", "unit", ("normal", 128**-0.5)),
        ("full", "identity", np.broadcast_to(np.eye(128), (4, 128, 128))),
        ("diagonal", "normal", ("normal", 1)),
        ("diagonal", "unit", ("normal", 1)),
        ("diagonal", "identity", np.ones((4, 128))),
    ],
)
def test_initial_pair_has_form_and_values_of_config(form, init, wanted):
    pair = np.asarray(make_attention(attention="pairwise", pairwise_form=form, pairwise_init=init).pair[...])
    if isinstance(wanted, np.ndarray):
        np.testing.assert_array_equal(pair, wanted)
        return
    assert pair.shape == {"full": (4, 128, 128), "diagonal": (4, 128)}[form]
    assert pair.mean() == pytest.approx(0, abs=0.15 * wanted[1])
    assert pair.std() == pytest.approx(wanted[1], rel=0.1)


@pytest.mark.parametrize("gain", [0, 5])
@pytest.mark.parametrize(
    ("fields", "initial_gain"),
    [
        ({}, 1),
        ({"key_init": "query"}, 1),
        ({"query": "identity"}, 1 / (0.02 * 512**0.5)),
        ({"key_dim": 64}, 1),
        ({"attention": "symmetric"}, 1),
        ({"attention": "pairwise"}, 128**0.5),
        ({"attention": "pairwise", "key_dim": 64}, 64**0.5),
        ({"attention": "pairwise", "pairwise_init": "unit"}, 1),
        ({"attention": "pairwise", "pairwise_init": "identity"}, 1),
        ({"attention": "pairwise", "pairwise_form": "diagonal"}, 1),
        ({"attention": "pairwise", "pairwise_form": "diagonal", "pairwise_init": "unit"}, 1),
        ({"attention": "pairwise", "pairwise_form": "diagonal", "pairwise_init": "identity"}, 1),
        ({"attention": "pairwise", "pairwise_form": "low_rank"}, 1),
    ],
    ids=str,
)
def test_first_logits_have_the_standard_deviation_of_score_gain(fields, initial_gain, gain, mesh):
    """Those of standard attention have 0.02^2 D, and the diagonal is left out: a token correlates with itself."""
    x = 512**0.5 * np.linalg.qr(np.random.default_rng(0).normal(size=(512, 64)))[0].T  # of orthogonal tokens
    attention = make_attention(score_gain=float(gain), **fields)
    logits = kernels.scores(*attention.query_key(jnp.asarray(x[None], jnp.float32)))
    off_diagonal = np.asarray(logits)[..., ~np.eye(64, dtype=bool)]
    assert off_diagonal.std() / (0.02**2 * 512) == pytest.approx(gain or initial_gain, rel=0.1)


def test_shared_start_has_symmetric_first_scores_and_free_keys(mesh):
    """The initial parameters are separate arrays, so the step, which consumes them, can update each of them."""
    config = configure(model={"key_init": "query", "layers": 1}, optim={"warmup_steps": 0})
    state, batch = states.init(config), put_batch(make_batch(config))
    before = jax.device_get(state.params["layers"]["attention"])
    after = jax.device_get(make_train_step(config)(state, batch)[0].params["layers"]["attention"])
    np.testing.assert_array_equal(before["key"]["kernel"], before["query"]["kernel"])
    assert before["query"]["kernel"].std() == pytest.approx(0.02, rel=0.1)
    assert np.abs(after["key"]["kernel"] - after["query"]["kernel"]).max() > 1e-3


def test_uniform_averages_the_tokens_that_each_token_sees(mesh):
    attention = make_attention(attention="uniform", dim=32, attention_dropout=0.0)
    x, segments = jax.random.normal(jax.random.key(0), (1, 6, 32)), jnp.array([[1, 1, 2, 2, 2, 0]])
    values = np.asarray(attention.value(x))
    means = np.stack([values[0, rows].mean(0) for rows in (slice(0, 2), slice(2, 5))])[[0, 0, 1, 1, 1, 0]]
    np.testing.assert_allclose(attention(x, segments, None), attention.output(jnp.asarray(means[None])), atol=1e-6)
    assert set(nnx.to_pure_dict(nnx.state(attention))) == {"value", "output"}


def perturbed(params):
    """Returns parameters of which each differs from its initial value, which may be a special case."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: leaf + rng.normal(0, 0.1, leaf.shape).astype(np.float32), params)


@pytest.mark.parametrize("name", FORMS)
def test_folded_models_have_the_same_logits(name, mesh):
    model = configure(model={"layers": 1, **FORMS[name]}).model
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: leaf + rng.normal(0, 0.1, leaf.shape).astype(np.float32), init_params_numpy(model)
    )
    tokens = np.random.default_rng(0).integers(0, 128, (3, 16), dtype=np.int32)

    def logits(model, params):
        return np.asarray(bert.logits(model, params, tokens, tokens % 16))

    folds = [fold] if "narrow" in name else [fold, to_papers_form]
    for convert in folds:
        folded = convert(model, params)
        assert (folded[0].attention in ("standard", "pairwise")) and bert.size(folded[0]) == sum(
            leaf.size for leaf in jax.tree.leaves(folded[1])
        )
        np.testing.assert_allclose(logits(*folded), logits(model, params), atol=2e-5)


def test_fold_refuses_keys_that_no_bert_has(mesh):
    for convert, key_dim, wanted in ((fold, 16, "at most 8"), (to_papers_form, 4, "0: the paper's code")):
        model = configure(model={"layers": 1, "key_dim": key_dim}).model
        with pytest.raises(UserError, match=f"model.key_dim: found {key_dim}, wanted {wanted}"):
            convert(model, init_params_numpy(model))


@pytest.mark.parametrize("name", FORMS)
def test_symmetry_is_that_of_the_matrix_of_the_scores(name):
    """x_t^T M x_s is the score of two tokens, without biases; M is read off from the scores of unit vectors."""
    config = configure(model={"layers": 1, **FORMS[name]}).model
    rng = np.random.default_rng(0)
    weights = jax.tree.map(
        lambda leaf: leaf + rng.normal(0, 0.1, leaf.shape).astype(np.float32),
        init_params_numpy(config)["layers"]["attention"],
    )
    weights = {
        part: leaf | {"bias": 0 * leaf["bias"]} if isinstance(leaf, dict) else leaf for part, leaf in weights.items()
    }
    layer = jax.tree.map(lambda leaf: leaf[0], weights)
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        attention = tree.module(layer, find_variant(config), config)
        matrices = np.asarray(kernels.scores(*attention.query_key(jnp.eye(32)[None])))[0].astype(np.float64)
        found = symmetry(jax.tree.map(jnp.asarray, weights), config) if attention.has_scores else None
    if found is None:
        assert not matrices.any()
        return
    wanted = [np.sum(((m + m.T) / 2) ** 2) / np.sum(m**2) for m in matrices]
    np.testing.assert_allclose(found, [wanted], rtol=1e-4)
    assert (np.array(wanted) > 0.999).all() == (name == "diagonal")
