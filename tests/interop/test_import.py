"""`import`: every way in which a BERT comes, and what is refused."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from etils import epath

from symbert_jax.checkpoint import Checkpoints, load
from symbert_jax.config import Config, Mesh, Train
from symbert_jax.data.vocabulary import SPECIAL
from symbert_jax.errors import UserError
from symbert_jax.interop.import_ import import_
from symbert_jax.sharding import make_mesh
from symbert_jax.train.start import restore
from tests.interop.ours import FIXTURES, VOCAB

SOURCE = FIXTURES / "plpi" / "vanilla"
TENSORS = safetensors.numpy.load_file(SOURCE / "model.safetensors")
CONFIG = json.loads((SOURCE / "config.json").read_text())


def folder(tmp_path: Path, tensors: dict, config: dict | None = None, words: str | None = VOCAB.read_text()) -> Path:
    """A source of Hugging Face's BERT."""
    source = tmp_path / "source"
    source.mkdir()
    safetensors.numpy.save_file(tensors, source / "model.safetensors")
    (source / "config.json").write_text(json.dumps(CONFIG | {"model_type": "bert"} | (config or {})))
    if words is not None:
        (source / "vocab.txt").write_text(words)
    return source


def bring(source: Path, tmp_path: Path, **changes):
    """The parameters of the workdir that `import` makes of a source."""
    given = {"vocab": None, "attention": None, "text": ""} | changes
    import_(epath.Path(source), epath.Path(tmp_path / "workdir"), **given)
    return load(tmp_path / "workdir")


def wanted(tmp_path: Path):
    return bring(SOURCE, tmp_path / "wanted", vocab=str(VOCAB))[0]


def without_prefix(tensors: dict) -> dict:
    return {name.removeprefix("bert."): tensor for name, tensor in tensors.items() if not name.startswith("cls.")}


VARIANTS = {
    "today's": lambda tensors: tensors,
    "gamma and beta": lambda tensors: {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors.items()
    },
    "pretraining": lambda tensors: (
        tensors
        | {
            "bert.embeddings.position_ids": np.arange(32)[None],
            "bert.pooler.dense.weight": np.zeros((32, 32), np.float32),
            "cls.seq_relationship.weight": np.zeros((2, 32), np.float32),
            "cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"],
            "cls.predictions.decoder.bias": tensors["cls.predictions.bias"],
        }
    ),
    "tied bias under the other name": lambda tensors: {
        name.replace("predictions.bias", "predictions.decoder.bias"): tensor for name, tensor in tensors.items()
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_masked_language_model_comes_in_whatever_its_names(variant, tmp_path) -> None:
    params, config = bring(folder(tmp_path, VARIANTS[variant](TENSORS)), tmp_path)
    assert config.model.attention == "standard" and config.model.layers == 2
    jax.tree.map(np.testing.assert_array_equal, params, wanted(tmp_path))


def test_a_plain_encoder_gets_a_fresh_head_and_says_so(tmp_path, capsys) -> None:
    params, _ = bring(folder(tmp_path, without_prefix(TENSORS)), tmp_path)
    assert "plain encoder: its head for masked words is a fresh one" in capsys.readouterr().out
    whole = wanted(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, params["layers"], whole["layers"])
    assert params["head"]["dense"]["kernel"].std() == pytest.approx(0.02, rel=0.1)


def test_half_precision_is_widened(tmp_path) -> None:
    short = {name: tensor.astype(jax.numpy.bfloat16) for name, tensor in TENSORS.items()}
    params, _ = bring(folder(tmp_path, short), tmp_path)
    rounded = np.asarray(short["bert.embeddings.word_embeddings.weight"], np.float32)
    np.testing.assert_array_equal(params["embeddings"]["word"], rounded)


def test_weights_in_several_files_and_a_vocabulary_in_tokenizer_json(tmp_path) -> None:
    source = folder(tmp_path, TENSORS, words=None)
    (source / "model.safetensors").unlink()
    names = sorted(TENSORS)
    files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in files.items():
        safetensors.numpy.save_file({name: TENSORS[name] for name in part}, source / file)
    index = {"weight_map": {name: file for file, part in files.items() for name in part}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    ids = {word: i for i, word in enumerate(VOCAB.read_text().splitlines())}
    (source / "tokenizer.json").write_text(json.dumps({"model": {"vocab": ids}}))
    params, _ = bring(source, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, params, wanted(tmp_path))
    assert (tmp_path / "workdir" / "vocab.txt").read_text() == VOCAB.read_text()


def test_pretraining_goes_on_from_an_import_with_a_config_of_its_own(tmp_path) -> None:
    params, imported = bring(SOURCE, tmp_path, vocab=str(VOCAB))
    workdir = epath.Path(tmp_path / "workdir")
    with jax.set_mesh(make_mesh(Mesh())):
        config = Config(model=imported.model, seed=7)
        checkpoints = Checkpoints(workdir, Train())
        state = restore(config, checkpoints)
        checkpoints.close()
    assert state is not None and int(state.step) == 0
    jax.tree.map(np.testing.assert_array_equal, state.params, params)


@pytest.mark.parametrize(
    ("config", "tensors", "words", "message"),
    [
        ({"model_type": "roberta"}, {}, None, "found model_type 'roberta', wanted bert or plpi/bert"),
        ({"hidden_act": "gelu_new"}, {}, None, "found hidden_act 'gelu_new', wanted 'gelu'"),
        ({"num_hidden_layers": 3}, {}, None, r"found no bert.encoder.layer.2.* and 12 more, wanted the tensors"),
        ({}, {"bert.odd": np.zeros(1, np.float32)}, None, "found unknown bert.odd, wanted the tensors"),
        ({"intermediate_size": 48}, {}, None, r"output.dense.weight of shape \[32, 64\], wanted \[32, 48\]"),
        ({}, {"cls.predictions.decoder.weight": np.zeros((120, 32), np.float32)}, None, "wanted tied ones"),
        ({"model_type": "plpi/bert", "plpi_affinity_function": "pairwse"}, {}, None, "did you mean 'pairwise'"),
        ({"heads": 1, "num_attention_heads": 5}, {}, None, "a multiple of model.heads=5"),
        ({}, {}, "\n".join((*SPECIAL, *map(str, range(200)))), "a vocabulary of 205 words, wanted 120"),
        ({}, {}, "the\ncat\n", r"no \[PAD\]"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(config, tensors, words, message, tmp_path) -> None:
    source = folder(tmp_path, TENSORS | tensors, config, words or VOCAB.read_text())
    with pytest.raises(UserError, match=message):
        bring(source, tmp_path)
    assert not (tmp_path / "workdir").exists()


def test_what_is_missing_is_one_clear_error(tmp_path) -> None:
    with pytest.raises(UserError, match=r"no .*config.json, wanted a folder of Hugging Face's BERT"):
        bring(tmp_path, tmp_path)
    with pytest.raises(UserError, match=r"no vocab.txt or tokenizer.json .* --vocab=FILE"):
        bring(SOURCE, tmp_path)
    with pytest.raises(UserError, match="attention: found symmetric from a pairwise source"):
        bring(FIXTURES / "plpi" / "pairwise", tmp_path, vocab=str(VOCAB), attention="symmetric")
    source = folder(tmp_path, TENSORS)
    (source / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    with pytest.raises(UserError, match=r"do_lower_case false .*, wanted an uncased vocabulary"):
        bring(source, tmp_path)
    whole = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(whole[:-9])
    with pytest.raises(UserError, match="wanted a whole safetensors file"):
        bring(source, tmp_path)
    shutil.move(source / "model.safetensors", source / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"which only torch reads, wanted model.safetensors; pip install torch"):
        bring(source, tmp_path)
    (tmp_path / "workdir").mkdir()
    (tmp_path / "workdir" / "mine").touch()
    with pytest.raises(UserError, match=r"workdir: found .* which is not empty"):
        bring(source, tmp_path)
