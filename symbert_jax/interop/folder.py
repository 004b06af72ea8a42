"""A folder as `transformers` knows it: `config.json`, weights, the tokenizer's files."""

import importlib
import io
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from etils import epath
from jax import numpy as jnp

from symbert_jax.data import tokenizer, vocabulary
from symbert_jax.data.rows import VOCAB
from symbert_jax.data.vocabulary import CLS, MASK, PAD, SEP, UNK
from symbert_jax.errors import UserError
from symbert_jax.interop.tensors import Tensors

CONFIG, SAFE, INDEX, PICKLED = "config.json", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"

_TYPES = {"F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16, "I64": np.int64}
_SPECIAL = {"unk_token": UNK, "sep_token": SEP, "pad_token": PAD, "cls_token": CLS, "mask_token": MASK}


class Folder(NamedTuple):
    config: dict[str, Any]
    tensors: Tensors


def read(folder: epath.Path) -> Folder:
    """Config and tensors as they are.

    Raises:
      UserError: a file is missing or damaged, or weights are pickled and torch is not installed.
    """
    if not (folder / CONFIG).exists():
        raise UserError("source", f"no {folder / CONFIG}", "a folder of Hugging Face's BERT or of plpi/bert")
    return Folder(_read_json(folder / CONFIG), _read_tensors(folder))


def read_vocabulary(folder: epath.Path) -> str | None:
    """The text of `vocab.txt`, or what `tokenizer.json` says it is; None where the folder has neither.

    Raises:
      UserError: it is of a tokenizer that keeps upper case.
    """
    settings = folder / "tokenizer_config.json"
    if settings.exists() and not _read_json(settings).get("do_lower_case", True):
        raise UserError("source", f"do_lower_case false in {settings}", "an uncased vocabulary, the only kind there is")
    if (folder / VOCAB).exists():
        return (folder / VOCAB).read_text(encoding="utf-8")
    if not (whole := folder / "tokenizer.json").exists():
        return None
    ids = _read_json(whole).get("model", {}).get("vocab", {})
    return "".join(f"{token}\n" for token in sorted(ids, key=ids.__getitem__))


def write(folder: epath.Path, config: Mapping[str, Any], tensors: Tensors, vocab: epath.Path, card: str) -> None:
    """Writes all that `AutoModel` and `AutoTokenizer` open."""
    folder.mkdir(parents=True, exist_ok=True)
    words = vocabulary.read(vocab)
    settings = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "model_max_length": config["max_position_embeddings"],
        "strip_accents": None,
        "tokenize_chinese_chars": True,
        "clean_up_tokenization_spaces": True,
        "added_tokens_decoder": {
            str(words.index(token)): {"content": token, "special": True} | dict.fromkeys(_FLAGS, False)
            for token in sorted(_SPECIAL.values(), key=words.index)
        },
        **_SPECIAL,
    }
    for name, content in ((CONFIG, config), ("tokenizer_config.json", settings), ("special_tokens_map.json", _SPECIAL)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    (folder / "tokenizer.json").write_text(tokenizer.load(vocab, parse_special=True).to_str(pretty=True))
    (folder / VOCAB).write_bytes(vocab.read_bytes())
    (folder / "README.md").write_text(card)
    (folder / SAFE).write_bytes(safetensors.numpy.save(tensors, metadata={"format": "pt"}))


_FLAGS = ("lstrip", "normalized", "rstrip", "single_word")


def _read_json(path: epath.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError("source", f"{path}: {error}", "JSON") from None


def _read_tensors(folder: epath.Path) -> Tensors:
    if (index := folder / INDEX).exists():
        files = sorted({folder / name for name in _read_json(index)["weight_map"].values()})
        return {name: tensor for file in files for name, tensor in _read_safe(file).items()}
    if (folder / SAFE).exists():
        return _read_safe(folder / SAFE)
    if (folder / PICKLED).exists():
        return _read_pickled(folder / PICKLED)
    raise UserError("source", f"no weights in {folder}", f"{SAFE}, {INDEX} or {PICKLED}")


def _read_safe(file: epath.Path) -> Tensors:
    try:
        entries = safetensors.deserialize(file.read_bytes())
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError("source", f"{file}: {error}", "a whole safetensors file") from None
    return {
        name: np.frombuffer(entry["data"], _TYPES[entry["dtype"]]).reshape(entry["shape"]) for name, entry in entries
    }


def _read_pickled(file: epath.Path) -> Tensors:
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        hint = "pip install torch, or convert it to safetensors where torch is"
        raise UserError("source", f"{file}, which only torch reads", SAFE, hint) from None
    tensors = torch.load(io.BytesIO(file.read_bytes()), map_location="cpu", weights_only=True)
    return {name: tensor.float().numpy() for name, tensor in tensors.items()}
