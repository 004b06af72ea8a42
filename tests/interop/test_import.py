"""`import` reads all known forms of checkpoints of BERT, and refuses damaged or unsupported folders."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from etils import epath

from symbert_jax.checkpoint import Checkpoints, load
from symbert_jax.config import Config, MeshConfig, TrainConfig
from symbert_jax.data import tokenizer
from symbert_jax.data.vocabulary import SPECIAL
from symbert_jax.errors import UserError
from symbert_jax.interop.import_ import Source, import_, read
from symbert_jax.sharding import make_mesh
from symbert_jax.train.start import restore
from tests.interop.ours import FIXTURES, VOCAB

SOURCE = FIXTURES / "plpi" / "vanilla"  # standard attention, 2 layers of width 32, 120 token ids
TENSORS = safetensors.numpy.load_file(SOURCE / "model.safetensors")
CONFIG = json.loads((SOURCE / "config.json").read_text())


def write_source(
    tmp_path: Path, tensors: dict, config: dict | None = None, vocabulary: str | None = VOCAB.read_text()
) -> Path:
    """Writes a folder of Hugging Face's BERT."""
    source = tmp_path / "source"
    source.mkdir()
    safetensors.numpy.save_file(tensors, source / "model.safetensors")
    (source / "config.json").write_text(json.dumps(CONFIG | {"model_type": "bert"} | (config or {})))
    if vocabulary is not None:
        (source / "vocab.txt").write_text(vocabulary)
    return source


def import_and_load(source: Path, tmp_path: Path, **changes):
    """Imports a source; returns the parameters and the config of the workdir."""
    arguments = {"vocab": None, "attention": None, "text": ""} | changes
    import_(epath.Path(source), epath.Path(tmp_path / "workdir"), **arguments)
    return load(tmp_path / "workdir")


def read_source(source: Path, vocab: str | None = None) -> Source:
    """Reads a source without writing a workdir."""
    return read(epath.Path(source), vocab)


@pytest.fixture(scope="module")
def source_params():
    """The parameters of the model in SOURCE."""
    return read_source(SOURCE, str(VOCAB)).params


def without_prefix(tensors: dict) -> dict:
    """Returns the tensors of the encoder, named as in a checkpoint of a plain encoder."""
    return {name.removeprefix("bert."): tensor for name, tensor in tensors.items() if not name.startswith("cls.")}


# Functions that write the tensors of the same model in another form, by this form.
VARIANTS = {
    "current names": lambda tensors: tensors,
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
    "data parallel": lambda tensors: {f"module.{name}": tensor for name, tensor in tensors.items()},
    "compiled in a wrapper": lambda tensors: {f"_orig_mod.model.{name}": tensor for name, tensor in tensors.items()},
    "float64": lambda tensors: {name: tensor.astype(np.float64) for name, tensor in tensors.items()},
    "a classifier too": lambda tensors: tensors | {"classifier.weight": np.zeros((3, 32), np.float32)},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_import_reads_every_naming_of_tensors(variant, source_params, tmp_path) -> None:
    found = read_source(write_source(tmp_path, VARIANTS[variant](TENSORS)))
    assert found.model.attention == "standard" and found.model.layers == 2
    jax.tree.map(np.testing.assert_array_equal, found.params, source_params)


def test_import_gives_plain_encoder_a_new_head(source_params, tmp_path, capsys) -> None:
    heads = {"qa_outputs.weight": np.zeros((2, 32), np.float32), "pooler.dense.bias": np.zeros(32, np.float32)}
    params, _ = import_and_load(write_source(tmp_path, without_prefix(TENSORS) | heads), tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("left out bert.pooler.dense, qa_outputs, which do not predict masked tokens")
    assert lines[1].endswith("is a plain encoder: its masked-language head is newly initialized")
    jax.tree.map(np.testing.assert_array_equal, params["layers"], source_params["layers"])
    assert params["head"]["dense"]["kernel"].std() == pytest.approx(0.02, rel=0.1)  # as newly initialized


def test_import_widens_narrow_types(tmp_path) -> None:
    for name, dtype in (("bf16", jax.numpy.bfloat16), ("f8", jax.numpy.float8_e4m3fn)):
        (tmp_path / name).mkdir()
        narrow = {name: tensor.astype(dtype) for name, tensor in TENSORS.items()}
        params = read_source(write_source(tmp_path / name, narrow)).params
        rounded = np.asarray(narrow["bert.embeddings.word_embeddings.weight"], np.float32)
        np.testing.assert_array_equal(params["embeddings"]["word"], rounded)


OLD = {"model_type": None, "plpi_affinity_function": None}  # like files from before 2020


@pytest.mark.parametrize(
    "changes",
    [
        OLD | {"architectures": ["BertForMaskedLM"]},
        OLD | {"architectures": None},
        {"model_type": None, "architectures": None, "plpi_affinity_function": "vanilla"},
        {"num_hidden_layers": 2.0, "position_embedding_type": None},
    ],
)
def test_import_completes_config_with_missing_fields(changes, source_params, tmp_path) -> None:
    source = write_source(tmp_path, TENSORS, changes)
    # a byte order mark, too, is accepted
    (source / "config.json").write_bytes(b"\xef\xbb\xbf" + (source / "config.json").read_bytes())
    found = read_source(source)
    assert found.model.layers == 2 and type(found.model.layers) is int
    jax.tree.map(np.testing.assert_array_equal, found.params, source_params)


def split(source: Path) -> Path:
    """Splits the weights of a source into two files with an index; returns the source."""
    names = sorted(TENSORS)
    files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in files.items():
        safetensors.numpy.save_file({name: TENSORS[name] for name in part}, source / file)
    index = {"weight_map": {name: file for file, part in files.items() for name in part}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    (source / "model.safetensors").unlink()
    return source


def test_import_reads_sharded_weights_and_tokenizer_json(source_params, tmp_path) -> None:
    source = split(write_source(tmp_path, TENSORS, vocabulary=None))
    expected = tokenizer.read(VOCAB)
    (source / "tokenizer.json").write_text(expected.build(parse_special=True).to_str())
    found = read_source(source)
    jax.tree.map(np.testing.assert_array_equal, found.params, source_params)
    assert found.tokenizer == expected


def test_pretrain_continues_from_import_with_another_config(tmp_path) -> None:
    params, imported = import_and_load(SOURCE, tmp_path, vocab=str(VOCAB))
    workdir = epath.Path(tmp_path / "workdir")
    with jax.set_mesh(make_mesh(MeshConfig())):
        config = Config(model=imported.model, seed=7)
        checkpoints = Checkpoints(workdir, TrainConfig())
        state = restore(config, checkpoints)
        checkpoints.close()
    assert state is not None and int(state.step) == 0
    jax.tree.map(np.testing.assert_array_equal, state.params, params)


@pytest.mark.parametrize(
    ("config", "tensors", "message"),
    [
        ({"model_type": "roberta"}, {}, "found model_type 'roberta', wanted bert or plpi/bert"),
        (OLD | {"architectures": ["RobertaModel"]}, {}, "no model_type, and architectures .'RobertaM"),
        ({"hidden_act": "gelu_new"}, {}, "found hidden_act 'gelu_new', wanted 'gelu'"),
        ({"num_hidden_layers": 3}, {}, "found 2 layers, wanted num_hidden_layers=3"),
        ({"num_hidden_layers": "2"}, {}, "config.json: found num_hidden_layers '2', wanted a whole number"),
        ({"num_hidden_layers": True}, {}, "found num_hidden_layers True, wanted a whole number"),
        ({"num_hidden_layers": 10**400}, {}, "found num_hidden_layers 1000.*, wanted a whole number"),
        ({"num_hidden_layers": 0}, {}, "found num_hidden_layers 0, wanted at least 1"),
        ({"hidden_size": [32]}, {}, r"found hidden_size \[32\], wanted a whole number"),
        ({"hidden_size": 2**20, "num_hidden_layers": 2**20}, {}, r"shape \[120, 32\], wanted \[120, 1048576\]"),
        ({"vocab_size": 5_000_000}, {}, "found vocab_size 5000000, wanted at most 4194304"),
        ({"max_position_embeddings": 7}, {}, "found max_position_embeddings 7, wanted at least 8"),
        ({"hidden_dropout_prob": "0.1"}, {}, "found hidden_dropout_prob '0.1', wanted a fraction"),
        ({"num_attention_heads": 5}, {}, "found hidden_size 32, wanted a multiple of num_attention_heads=5"),
        ({"intermediate_size": 48}, {}, r"output.dense.weight of shape \[32, 64\], wanted \[32, 48\]"),
        ({"model_type": "plpi/bert", "plpi_affinity_function": "pairwse"}, {}, "did you mean 'pairwise'"),
        ({"model_type": "plpi/bert", "plpi_affinity_function": []}, {}, r"found plpi_affinity_function \[\]"),
        ({}, {"bert.odd": np.zeros(1, np.float32)}, "found unknown bert.odd, wanted the tensors"),
        ({}, {"cls.predictions.bias": np.full(120, np.nan, np.float32)}, "found cls.predictions.bias with NaN"),
        ({}, {"cls.predictions.bias": np.full(120, 1e300)}, "found cls.predictions.bias with NaN, infinite or too l"),
        ({}, {"cls.predictions.bias": np.zeros(120, np.int32)}, "cls.predictions.bias of type int32, wanted floating"),
        ({}, {"cls.predictions.bias": np.zeros(120, np.complex64)}, "cls.predictions.bias of type C64"),
        ({}, {"cls.predictions.decoder.weight": np.zeros((120, 32), np.float32)}, "wanted equal tensors"),
        ({}, {"b.embeddings.word_embeddings.weight": np.zeros((9, 9), np.float32)}, "found 2 tables embeddings.word"),
    ],
)
def test_import_refuses_mismatched_config_or_tensor(config, tensors, message, tmp_path) -> None:
    source = write_source(tmp_path, TENSORS | tensors, config)
    with pytest.raises(UserError, match=message):
        read_source(source)


def test_import_refuses_other_architecture(tmp_path) -> None:
    renamed = {name.replace("bert.", "roberta."): tensor for name, tensor in TENSORS.items()}
    with pytest.raises(UserError, match="found the tensors of 'roberta', wanted those of BERT"):
        read_source(write_source(tmp_path, renamed))


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
# Functions that damage a source, and a part of the error, by the damage.
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (
        lambda source: (source / "config.json").unlink(),
        "no .*config.json, wanted the folder of a BERT",
    ),
    "a config that is a list": (
        lambda source: (source / "config.json").write_text("[]"),
        "config.json: a JSON list, wanted a JSON obj",
    ),
    "a pointer for a config": (lambda source: (source / "config.json").write_text(LFS), "a Git LFS pointer.*lfs pull"),
    "a pointer for weights": (
        lambda source: (source / "model.safetensors").write_text(LFS),
        "model.safetensors, which is a Git LFS pointer .*, wanted the file itself; .*git lfs pull, in its folder",
    ),
    "a pointer for a vocabulary": (
        lambda source: (source / "vocab.txt").write_text(LFS),
        "vocab.txt, which is a Git LFS",
    ),
    "an HTML page for weights": (
        lambda source: (source / "model.safetensors").write_text("<!DOCTYPE html><html></html>"),
        "which is an HTML page, wanted the file itself; download it again",
    ),
    "truncated weights": (
        lambda source: os.truncate(source / "model.safetensors", 5000),
        "model.safetensors: .*, wanted a whole safetensors file",
    ),
    "weights of TensorFlow": (
        lambda source: (source / "model.safetensors").rename(source / "tf_model.h5"),
        "only tf_model.h5 in .*; convert it with transformers",
    ),
    "pickled weights": (
        lambda source: (source / "model.safetensors").rename(source / "pytorch_model.bin"),
        "which only torch can read, wanted model.safetensors; pip install torch",
    ),
    "a missing part": (
        lambda source: (split(source) / "b.safetensors").unlink(),
        "no .*b.safetensors, which .*index.json na",
    ),
    "an index that is a list": (
        lambda source: (split(source) / "model.safetensors.index.json").write_text("[]"),
        "index.json: a JSON list, wanted a JSON object",
    ),
    "an index without a map": (
        lambda source: (split(source) / "model.safetensors.index.json").write_text('{"weight_map": ["a"]}'),
        "no usable weight_map in .*index.json",
    ),
    "an index of another folder": (
        lambda source: (split(source) / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x"}}'),
        "'../x' in .*, wanted the name of a file beside this index",
    ),
    "no vocabulary": (lambda source: (source / "vocab.txt").unlink(), "no vocab.txt or tokenizer.json .* --vocab=FILE"),
    "a vocabulary without [PAD]": (lambda source: (source / "vocab.txt").write_text("the\ncat\n"), r"no \[PAD\]"),
    "a vocabulary that is too large": (
        lambda source: (source / "vocab.txt").write_text("\n".join((*SPECIAL, *map(str, range(200))))),
        "a vocabulary of 205 tokens, wanted at most 120",
    ),
    "a file": (lambda source: (shutil.rmtree(source), source.touch()), "source, a file, wanted the folder that holds"),
    "no folder": (
        shutil.rmtree,
        "no folder .*source.*; download a model of the hub first: hf download OWNER/NAME",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_import_refuses_damaged_folder(damage, tmp_path) -> None:
    source = write_source(tmp_path, TENSORS)
    apply, message = DAMAGES[damage]
    apply(source)
    with pytest.raises(UserError, match=f"^source: found .*{message}"):
        read_source(source)


def test_import_refuses_wrong_flags_and_writes_nothing(tmp_path) -> None:
    source = write_source(tmp_path, TENSORS)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    for flags, message in (
        ({"attention": "symetric"}, "attention: found 'symetric', wanted one of standard, symmetric, pairwise"),
        ({"attention": "pairwise", "text": "txt:x"}, "text: found 'txt:x', wanted a kind of source"),
        ({"attention": "pairwise", "text": f"jsonl:{VOCAB}"}, "text: found .*vocab.txt, item 1: "),
        ({"attention": "pairwise", "text": f"text:{VOCAB}"}, "text: found .* tokens in text:.*, wanted at least"),
        ({"vocab": ""}, "vocab: found '', wanted a path"),
        ({"vocab": f"{tmp_path}/none"}, "vocab: found no file .*none, wanted a vocab.txt"),
        ({"vocab": f"{tmp_path}/full"}, "vocab: found no vocab.txt or tokenizer.json in .*full"),
    ):
        with pytest.raises(UserError, match=f"^{message}"):
            import_and_load(source, tmp_path, **flags)
    with pytest.raises(UserError, match="attention: found symmetric from a pairwise source"):
        import_and_load(FIXTURES / "plpi" / "pairwise", tmp_path, vocab=str(VOCAB), attention="symmetric")
    for name, message in (("full", "not empty"), ("full/mine", "a file")):
        with pytest.raises(UserError, match=f"workdir: found .* which is {message}, wanted a new folder"):
            import_(epath.Path(source), epath.Path(tmp_path / name), vocab=None, attention=None, text="")
    assert not (tmp_path / "workdir").exists()


ODD_VALUES = (None, True, 0, -1, 12.5, 10**40, 1e308, "", "x", "\0", "\ud800", [], {}, [[]], {"a": 1})


def mutate(generator: random.Random, file: Path) -> None:
    """Changes a few bytes of a file, truncates the file, or sets a field of its JSON to an odd value."""
    data = bytearray(file.read_bytes())
    if file.suffix == ".json" and generator.random() < 0.7:
        node = root = json.loads(data)
        while isinstance(node, dict) and node:
            key = generator.choice(list(node))
            if not isinstance(node[key], dict) or generator.random() < 0.3:
                node[key] = generator.choice(ODD_VALUES)
                break
            node = node[key]
        data = bytearray(json.dumps(root).encode())
    elif generator.random() < 0.3:
        del data[generator.randrange(len(data)) :]
    else:
        for _ in range(3):
            index = min(generator.randrange(len(data)), generator.randrange(4000))  # of safetensors, mostly the header
            data[index] = generator.randrange(256)
    file.write_bytes(data)


def test_mutated_folder_raises_user_errors_only(tmp_path) -> None:
    source = split(write_source(tmp_path, TENSORS))
    tokenizer.write(tokenizer.read(VOCAB), source)
    tokenizer_json = tokenizer.read(VOCAB).build(parse_special=True).to_str()
    (source / "tokenizer.json").write_text(tokenizer_json)
    settings = {
        "do_lower_case": True,
        "strip_accents": None,
        "never_split": None,
        **tokenizer.role_names(tokenizer.read(VOCAB)),
    }
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    assert read_source(source).tokenizer == tokenizer.read(VOCAB)
    refused, files = 0, sorted(path.name for path in source.iterdir())
    for seed in range(400):
        generator = random.Random(seed)
        file = source / generator.choice(files)
        before = file.read_bytes()
        mutate(generator, file)
        try:
            read_source(source)
        except UserError as error:
            assert "\n" not in str(error), seed
            refused += 1
        file.write_bytes(before)
    assert refused > 200
