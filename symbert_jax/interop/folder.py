"""A folder as `transformers` knows it: `config.json`, weights, the tokenizer's files."""

import importlib
import io
import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from etils import epath
from jax import numpy as jnp

from symbert_jax.data import tokenizer
from symbert_jax.data.tokenizer import ROLES, SETTINGS, SPECIAL_TOKENS, TOKENIZER, WordPiece
from symbert_jax.data.vocabulary import VOCAB
from symbert_jax.errors import UserError
from symbert_jax.interop.tensors import Tensors
from symbert_jax.storage import HEAD, LFS_POINTER, MARKUP, check_format, read_json

CONFIG, SAFE, INDEX, PICKLED = "config.json", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"

_TYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "F8_E4M3": jnp.float8_e4m3fn,
    "F8_E5M2": jnp.float8_e5m2,
    "BOOL": np.bool_,
} | {f"{sign}{bits}": np.dtype(f"{sign}{bits // 8}".lower()) for sign in "IU" for bits in (8, 16, 32, 64)}
# weights in the formats of other programs, and adapters
_FOREIGN = (
    "tf_model.h5",
    "flax_model.msgpack",
    "model.ckpt.index",
    "bert_model.ckpt.index",
    "pytorch_model.bin.index.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
)


class Folder(NamedTuple):
    config: dict[str, Any]
    tensors: Tensors


def read(folder: epath.Path) -> Folder:
    """The config and the tensors of a folder, unchanged.

    Raises:
      UserError: a file is missing or damaged, or weights are pickled and torch is not installed.
    """
    if not folder.exists():
        hint = "a model of the hub is downloaded first: hf download OWNER/NAME --local-dir DIR"
        raise UserError("source", f"no folder {folder}", "a folder of Hugging Face's BERT or of plpi/bert", hint)
    if not folder.is_dir():
        raise UserError("source", f"{folder}, a file", "the folder that holds it, with its config.json")
    if not (folder / CONFIG).exists():
        raise UserError("source", f"no {folder / CONFIG}", "a folder of Hugging Face's BERT or of plpi/bert")
    return Folder(read_json(folder / CONFIG, "source"), _read_tensors(folder))


def write(folder: epath.Path, config: Mapping[str, Any], tensors: Tensors, wordpiece: WordPiece, card: str) -> None:
    """Writes all that `AutoModel` and `AutoTokenizer` open."""
    settings = tokenizer.to_settings(wordpiece, config["max_position_embeddings"])
    for name, content in ((CONFIG, config), (SETTINGS, settings), (SPECIAL_TOKENS, ROLES)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    tokenizer.write(wordpiece, folder / VOCAB)
    (folder / TOKENIZER).write_text(wordpiece.build(parse_special=True).to_str(pretty=True))
    (folder / "README.md").write_text(card)
    (folder / SAFE).write_bytes(safetensors.numpy.save(tensors, metadata={"format": "pt"}))


def _read_tensors(folder: epath.Path) -> Tensors:
    if (folder / SAFE).exists():
        return _read_safe(folder / SAFE)
    if (index := folder / INDEX).exists():
        return {name: tensor for file in _parts(index) for name, tensor in _read_safe(file).items()}
    if (folder / PICKLED).exists():
        return _read_pickled(folder / PICKLED)
    wanted = f"{SAFE}, {INDEX} or {PICKLED}"
    if foreign := [name for name in _FOREIGN if (folder / name).exists()]:
        hint = f"convert it with transformers: from_pretrained, then save_pretrained, which writes {SAFE}"
        raise UserError("source", f"only {foreign[0]} in {folder}", wanted, hint)
    raise UserError("source", f"no weights in {folder}", wanted)


def _parts(index: epath.Path) -> list[epath.Path]:
    """The files of weights that an index names, all of them beside it."""
    names = read_json(index, "source").get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise UserError("source", f"no usable weight_map in {index}", "the name of a file for each tensor")
    for name in sorted(set(names.values())):
        if not name or PurePosixPath(name).name != name or "\0" in name or "\\" in name:
            raise UserError("source", f"{name!r} in {index}", "the name of a file beside it")
        if not (index.parent / name).exists():
            raise UserError("source", f"no {index.parent / name}, which {index.name} names", "all parts of the weights")
    return [index.parent / name for name in sorted(set(names.values()))]


def _read_bytes(file: epath.Path) -> bytes:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError("source", f"{file}: {error.strerror or error}", "a readable file") from None
    check_format(data[:HEAD], (LFS_POINTER, *MARKUP), file, "source", "the file itself")
    return data


def _read_safe(file: epath.Path) -> Tensors:
    try:
        entries = safetensors.deserialize(_read_bytes(file))
    except safetensors.SafetensorError as error:
        raise UserError("source", f"{file}: {error}", "a whole safetensors file") from None
    for name, entry in entries:
        if entry["dtype"] not in _TYPES:
            raise UserError("source", f"{name} of type {entry['dtype']} in {file}", "floating-point numbers")
    return {
        name: np.frombuffer(entry["data"], _TYPES[entry["dtype"]]).reshape(entry["shape"]) for name, entry in entries
    }


def _read_pickled(file: epath.Path) -> Tensors:
    data = _read_bytes(file)
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        hint = "pip install torch, or convert it to safetensors where torch is"
        raise UserError("source", f"{file}, which only torch reads", SAFE, hint) from None
    try:
        tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return {
            name: (tensor.float() if tensor.is_floating_point() else tensor).numpy()
            for name, tensor in tensors.items()
            if isinstance(name, str)
        }
    except Exception as error:  # zip's, pickle's, torch's, or those of what is no tensor
        reason = f"{error}".partition("\n")[0] or type(error).__name__
        raise UserError("source", f"{file}: {reason}", "a file of tensors that torch.load reads") from None
