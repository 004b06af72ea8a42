"""ModernBERT in and out; `test_transformers` compares its numbers with those of transformers."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy
from etils import epath

from symbert_jax.config import ModelConfig
from symbert_jax.data import tokenizer
from symbert_jax.errors import UserError
from symbert_jax.inference import load
from symbert_jax.interop import modernbert
from symbert_jax.interop.architecture import check_exportable, to_model
from symbert_jax.interop.export import export
from symbert_jax.interop.import_ import import_
from tests.interop.ours import EXPORT_OPTIONS, make_modern


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> epath.Path:
    return make_modern(tmp_path_factory.mktemp("modern"))


def test_imported_folder_is_exported_as_it_was(workdir, tmp_path, capsys) -> None:
    """The wrapper, the tied decoder, and the names of transformers 5 in the config are read as well."""
    first, second = epath.Path(tmp_path / "first"), epath.Path(tmp_path / "second")
    export(workdir, first, **EXPORT_OPTIONS)
    wanted, config = (
        safetensors.numpy.load_file(first / "model.safetensors"),
        json.loads((first / "config.json").read_text()),
    )
    table = wanted["model.embeddings.tok_embeddings.weight"]
    tensors = {f"module.{name}": tensor for name, tensor in wanted.items()} | {"module.decoder.weight": table}
    safetensors.numpy.save_file(tensors, first / "model.safetensors")
    kinds = ["sliding_attention" if i % 3 else "full_attention" for i in range(5)]
    thetas = {"full_attention": 160.0, "sliding_attention": 10.0}
    rotations = {kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in thetas.items()}
    newer = {name: value for name, value in config.items() if "theta" not in name and "every" not in name}
    (first / "config.json").write_text(json.dumps(newer | {"layer_types": kinds, "rope_parameters": rotations}))
    import_(first, epath.Path(tmp_path / "imported"), vocab=None, attention=None, text="")
    export(epath.Path(tmp_path / "imported"), second, **EXPORT_OPTIONS)
    found = safetensors.numpy.load_file(second / "model.safetensors")
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    assert json.loads((second / "config.json").read_text()) == config | {"initializer_range": 0.02}
    assert tokenizer.read(tmp_path / "imported") == tokenizer.read(workdir)
    original, imported = load(workdir).config.model, load(tmp_path / "imported").config.model
    assert imported == dataclasses.replace(original, attention="standard", initializer_range=0.02)
    with pytest.raises(UserError, match="attention: found pairwise from a source with rotary positions"):
        import_(first, epath.Path(tmp_path / "other"), vocab=None, attention="pairwise", text="")


MODERN = {"positions": "rope", "norm": "pre", "mlp": "geglu"}


@pytest.mark.parametrize(
    ("fields", "format", "message"),
    [
        (MODERN | {"norm": "post"}, "huggingface", "model.norm: found 'post', wanted 'pre'"),
        (MODERN | {"mlp": "gelu"}, "huggingface", "model.mlp: found 'gelu', wanted 'geglu'"),
        (MODERN | {"positions": "learned"}, "huggingface", "model.norm: found 'pre', wanted 'post', as BERT has it"),
        ({"window": 4}, "huggingface", "model.window: found 4, wanted 0, as BERT has it"),
        ({"bias": False}, "plpi", "model.bias: found False, wanted True, as BERT has it"),
        (MODERN, "plpi", "model.positions: found 'rope', wanted 'learned', as BERT has it"),
    ],
    ids=str,
)
def test_export_names_the_field_without_an_equivalent(fields, format, message) -> None:
    with pytest.raises(UserError, match=message):
        check_exportable(ModelConfig(**fields), format)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mlp_bias": True}, "mlp_bias True, wanted the same true or false for all of attention_bias"),
        ({"hidden_activation": "silu"}, "hidden_activation 'silu', wanted 'gelu'"),
        ({"mlp_dropout": 0.2}, "embedding_dropout and mlp_dropout .*wanted equal rates"),
        ({"norm_eps": -1}, "norm_eps -1, wanted a positive number"),
        ({"local_attention": 1}, "local_attention 1, wanted at least 2"),
        ({"global_attn_every_n_layers": 0}, "global_attn_every_n_layers 0, wanted at least 1"),
        ({"rope_scaling": {"type": "yarn"}}, "rope_scaling .*wanted none"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "rope_type 'yarn', wanted default"),
        ({"global_attn_every_n_layers": None, "layer_types": ["sliding_attention"] * 12}, "layer_types"),
        ({"layer_types": ["full_attention"] * 12}, "layer_types .*wanted a kind for each layer, .* distances of 3"),
        ({"layer_types": ["full_attention"]}, "layer_types .*wanted a kind for each layer"),
        ({"classifier_activation": "relu"}, "classifier_activation 'relu', wanted 'gelu'"),
        ({"decoder_bias": False}, "decoder_bias False, wanted True"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings False, wanted True"),
        ({"vocab_size": None}, "no vocab_size, wanted every size of the model"),
        ({"hidden_size": 30}, "hidden_size 30, wanted a multiple of num_attention_heads=4"),
    ],
    ids=str,
)
def test_import_refuses_what_the_model_does_not_have(change, message) -> None:
    model = ModelConfig(**MODERN, bias=False, heads=4, window=4)
    config = {"model_type": "modernbert", **modernbert.to_config(model)}
    with pytest.raises(UserError, match=f"config.json: found {message}"):
        to_model(config | change, "config.json")
