"""`Model` fills masks, encodes and embeds texts, and computes logits."""

from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

from symbert_jax.checkpoint import Checkpoints
from symbert_jax.config import Config, MeshConfig, ModelConfig, TrainConfig, to_json
from symbert_jax.errors import UserError
from symbert_jax.inference import MAX_BATCH, Model, fill, load, one_device
from symbert_jax.model import bert
from symbert_jax.model.tree import Params
from symbert_jax.sharding import make_mesh
from symbert_jax.train import state as states

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on"]
CONFIG = Config(model=ModelConfig(layers=1, dim=16, heads=2, mlp_dim=32, length=8, vocab_size=16, dtype="float32"))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> epath.Path:
    """The workdir of a run that was not trained. Its model predicts "cat" first and "sat" second."""
    workdir = epath.Path(tmp_path_factory.mktemp("run"))
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        state = states.init(CONFIG)
        bias = np.full(16, -9.0, np.float32)
        bias[WORDS.index("cat")], bias[WORDS.index("sat")], bias[12] = 9.0, 8.0, 99.0  # 12 is not in the vocabulary
        state.params["head"]["bias"] = jax.device_put(bias, state.params["head"]["bias"].sharding)
        checkpoints = Checkpoints(workdir, TrainConfig())
        checkpoints.save(30, state.params, state.optimizer, CONFIG, validation_loss=None)
        checkpoints.close()
    (workdir / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (workdir / "config.json").write_text(to_json(CONFIG))
    return workdir


@pytest.fixture(scope="module")
def model(workdir: epath.Path) -> Model:
    return load(workdir)


def test_fill_mask_returns_best_tokens_for_each_mask(model: Model) -> None:
    text = "The [MASK] sat [MASK]."
    first, second = model.fill_mask(text, top=2)
    assert [guess.token for guess in first] == [guess.token for guess in second] == ["cat", "sat"]
    assert first[0].probability == pytest.approx(np.e / (np.e + 1), abs=0.05)
    assert len(model.fill_mask("- \0\n[MASK]", top=100)[0]) == len(WORDS)
    with jax.set_mesh(make_mesh(MeshConfig())):  # a mesh of the user
        same, short = model.fill_mask([text, "[MASK]"], top=2)
    assert len(short) == 1 and len(same) == 2
    assert same[1][0].probability == pytest.approx(second[0].probability, abs=1e-5)
    assert model.fill_mask([]) == []


def test_fill_prints_each_text_with_its_guesses(workdir: epath.Path, capsys) -> None:
    fill(workdir, step=30, texts=["the [MASK]", "[MASK] [MASK]"], top=1)
    lines = [line.split("%")[0][:7] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["the [MA", "  cat 7", "[MASK] ", "  cat 7", "  cat 7"]


def test_fill_mask_refuses_unusable_texts(model: Model) -> None:
    for text, message in {
        "the cat": r"text: found 'the cat', wanted at least one \[MASK\] in it$",
        "": r"text: found '', wanted at least one \[MASK\] in it$",
        "[MASK] " * 7: "text: found 9 tokens, wanted at most 8, the length of the model$",
        "the [Mask]": r"wanted at least one \[MASK\] in it; write \[MASK\] in capitals",
        "the \udcff [MASK]": r"text: found 'the \\udcff \[MASK\]', wanted text in UTF-8",
        ("[MASK]", "the"): r"texts\[1\]: found 'the', wanted at least one",
        iter(["[MASK]", None]): r"texts\[1\]: found None, wanted text",
    }.items():
        with pytest.raises(UserError, match=message):
            model.fill_mask(text)
    with pytest.raises(UserError, match="top: found 0, wanted at least 1"):
        model.fill_mask("[MASK]", top=0)


def test_model_refuses_vocabulary_larger_than_itself(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join([*WORDS, *map(str, range(8))]))
    with pytest.raises(UserError, match=f"checkpoint: found a tokenizer of 17 tokens in {tmp_path}, wanted at most 16"):
        Model(CONFIG, {}, epath.Path(tmp_path)).encode("the")


def test_encode_pads_and_truncates_texts(model: Model) -> None:
    ids, mask = model.encode(["the cat", "the"])
    assert ids.tolist() == [[2, 5, 6, 3], [2, 5, 3, 0]] and mask.tolist() == [[True] * 4, [True] * 3 + [False]]
    assert model.encode("the").ids.tolist() == [[2, 5, 3]]
    assert model.encode("the cat sat on " * 2, truncate=True).ids.tolist() == [[2, 5, 6, 7, 8, 5, 6, 3]]
    assert model.encode([]).mask.shape == (0, 0)
    message = r"texts\[1\]: found 10 tokens, wanted at most 8, the length of the model; truncate=True cuts it"
    with pytest.raises(UserError, match=message):
        model.encode(["the", "the cat sat on " * 2])


def test_embed_pools_real_tokens_only(model: Model) -> None:
    texts = ["the cat sat on the", "the", *["cat sat"] * MAX_BATCH]
    mean, cls = model.embed(texts), model.embed(iter(texts), pooling="cls")
    assert mean.shape == cls.shape == (len(texts), 16) and mean.dtype == np.float32

    @jax.jit
    def encode(params: Params, ids: np.ndarray) -> jax.Array:
        module = bert.module(CONFIG.model, params)
        return module.encode(module.embeddings(ids))

    for i, text in enumerate(texts[:2]):
        with jax.set_mesh(one_device()):
            hidden = np.asarray(encode(model.params, model.encode(text).ids))[0]  # without padding
        np.testing.assert_allclose(mean[i], hidden.mean(0), atol=1e-5)
        np.testing.assert_allclose(cls[i], hidden[0], atol=1e-5)
    assert model.embed([]).shape == (0, 16)
    with pytest.raises(UserError, match="pooling: found 'max', wanted one of mean, cls"):
        model.embed("the", pooling="max")


def test_logits_ignore_padding(model: Model) -> None:
    ids, _ = model.encode(["the cat sat on", "the [MASK]"])
    both, alone = model.logits(ids, [[1, 2], [2, 0]]), model.logits([[2, 5, 4, 3]], [[2, 0]])
    assert both.shape == (2, 2, 16) and both.dtype == np.float32
    np.testing.assert_allclose(both[1:], alone, atol=1e-5)


@pytest.mark.parametrize(
    ("ids", "positions", "message"),
    [
        ([[2.0, 3.0]], [[0]], r"ids: found float64 of shape \[1, 2\], wanted integers of two dimensions"),
        (np.array([2, 3]), [[0]], r"ids: found int64 of shape \[2\], wanted integers of two dimensions"),
        ([[2, 3], [2]], [[0]], "ids: found rows of different lengths, wanted rows of one length"),
        ([[2, 16]], [[0]], "ids: found numbers from 2 to 16, wanted numbers from 0 to 15"),
        ([[2, 3]], [[2]], "positions: found numbers from 2 to 2, wanted numbers from 0 to 1"),
        ([[2, 3]], [[0], [1]], "positions: found 2 rows, wanted 1, as many as ids has"),
        ([[2] * 9], [[0]], "ids: found 9 tokens, wanted at most 8, the length of the model"),
    ],
)
def test_logits_refuse_wrong_arrays(model: Model, ids, positions, message: str) -> None:
    with pytest.raises(UserError, match=message):
        model.logits(ids, positions)
