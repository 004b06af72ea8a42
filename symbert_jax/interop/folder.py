"""Reads and writes a model folder of `transformers`: `config.json`, the weights and the files of the tokenizer."""

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

from symbert_jax.data.tokenizer import (
    SETTINGS,
    SPECIAL_TOKENS_FILE,
    TOKENIZER,
    TextTokenizer,
    role_names,
    to_settings,
    tokenizer_json_of,
)
from symbert_jax.data.tokenizer import write as write_tokenizer
from symbert_jax.errors import UserError
from symbert_jax.interop import modernbert
from symbert_jax.interop.tensors import Tensors
from symbert_jax.storage import HEAD, LFS_POINTER, MARKUP, check_format, read_json, write_whole

CONFIG, PICKLED = "config.json", "pytorch_model.bin"
SAFETENSORS, INDEX = "model.safetensors", "model.safetensors.index.json"

_DTYPES = {  # numpy types by their names in a safetensors file
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "F8_E4M3": jnp.float8_e4m3fn,
    "F8_E5M2": jnp.float8_e5m2,
    "BOOL": np.bool_,
} | {f"{sign}{bits}": np.dtype(f"{sign}{bits // 8}".lower()) for sign in "IU" for bits in (8, 16, 32, 64)}
# Files that are not read: weights in other formats, and adapters.
_UNSUPPORTED = (
    "tf_model.h5",
    "flax_model.msgpack",
    "model.ckpt.index",
    "bert_model.ckpt.index",
    "pytorch_model.bin.index.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
)


class Folder(NamedTuple):
    """The contents of a model folder."""

    config: dict[str, Any]
    tensors: Tensors


def read(folder: epath.Path) -> Folder:
    """Reads the config and the tensors of a folder. Pickled floating-point tensors are converted to float32.

    Raises:
      UserError: a file is missing or damaged, or the weights are pickled and torch is not installed.
    """
    wanted = "the folder of a BERT or ModernBERT, in the format of Hugging Face or of plpi/bert"
    if not folder.exists():
        hint = "download a model of the hub first: hf download OWNER/NAME --local-dir DIR"
        raise UserError("source", f"no folder {folder}", wanted, hint)
    if not folder.is_dir():
        raise UserError("source", f"{folder}, a file", "the folder that holds it and a config.json")
    if not (folder / CONFIG).exists():
        raise UserError("source", f"no {folder / CONFIG}", wanted)
    return Folder(read_json(folder / CONFIG, "source"), _read_tensors(folder))


def write(folder: epath.Path, config: Mapping[str, Any], tensors: Tensors, tokenizer: TextTokenizer, card: str) -> None:
    """Writes the files that `AutoModel` and `AutoTokenizer` read, and the model card.

    Raises:
      OSError: a file cannot be written; the error names it.
    """
    settings = to_settings(tokenizer, config["max_position_embeddings"])
    if config["model_type"] == modernbert.MODEL_TYPE:  # it has no token types
        settings |= {"model_input_names": ["input_ids", "attention_mask"]}
    for name, content in ((CONFIG, config), (SETTINGS, settings), (SPECIAL_TOKENS_FILE, role_names(tokenizer))):
        write_whole(folder / name, json.dumps(content, indent=2) + "\n")
    write_tokenizer(tokenizer, folder)
    write_whole(folder / TOKENIZER, tokenizer_json_of(tokenizer))
    write_whole(folder / "README.md", card)
    write_whole(folder / SAFETENSORS, safetensors.numpy.save(tensors, metadata={"format": "pt"}))


def _read_tensors(folder: epath.Path) -> Tensors:
    if (folder / SAFETENSORS).exists():
        return _read_safetensors(folder / SAFETENSORS)
    if (index := folder / INDEX).exists():
        return {name: tensor for file in _indexed_files(index) for name, tensor in _read_safetensors(file).items()}
    if (folder / PICKLED).exists():
        return _read_pickled(folder / PICKLED)
    wanted = f"{SAFETENSORS}, {INDEX} or {PICKLED}"
    if unsupported := [name for name in _UNSUPPORTED if (folder / name).exists()]:
        hint = f"convert it with transformers: from_pretrained, then save_pretrained, which writes {SAFETENSORS}"
        raise UserError("source", f"only {unsupported[0]} in {folder}", wanted, hint)
    raise UserError("source", f"no weights in {folder}", wanted)


def _indexed_files(index: epath.Path) -> list[epath.Path]:
    """Returns the files that an index of weights names, all of them in the folder of the index.

    Raises:
      UserError: the index is damaged, or names a file that is elsewhere or missing.
    """
    files = read_json(index, "source").get("weight_map")  # names of files, by the names of tensors
    if not isinstance(files, dict) or not files or not all(isinstance(name, str) for name in files.values()):
        raise UserError("source", f"no usable weight_map in {index}", "the name of a file for each tensor")
    names = sorted(set(files.values()))
    for name in names:
        if not name or PurePosixPath(name).name != name or "\0" in name or "\\" in name:
            raise UserError("source", f"{name!r} in {index}", "the name of a file beside this index")
        if not (index.parent / name).exists():
            raise UserError("source", f"no {index.parent / name}, which {index.name} names", "all parts of the weights")
    return [index.parent / name for name in names]


def _read_bytes(file: epath.Path) -> bytes:
    """Reads a file; raises `UserError` if it cannot be read, or is a Git LFS pointer, HTML or XML instead."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError("source", f"{file}: {error.strerror or error}", "a readable file") from None
    check_format(data[:HEAD], file, "source", "the file itself", refused=(LFS_POINTER, *MARKUP))
    return data


def _read_safetensors(file: epath.Path) -> Tensors:
    try:
        entries = safetensors.deserialize(_read_bytes(file))
    except safetensors.SafetensorError as error:
        raise UserError("source", f"{file}: {error}", "a whole safetensors file") from None
    for name, entry in entries:
        if entry["dtype"] not in _DTYPES:
            raise UserError("source", f"{name} of type {entry['dtype']} in {file}", f"one of {', '.join(_DTYPES)}")
    return {
        name: np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"]) for name, entry in entries
    }


def _read_pickled(file: epath.Path) -> Tensors:
    data = _read_bytes(file)
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        hint = "pip install torch, or convert the file to safetensors on a machine that has torch"
        raise UserError("source", f"{file}, which only torch can read", SAFETENSORS, hint) from None
    try:
        tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return {
            name: (tensor.float() if tensor.is_floating_point() else tensor).numpy()
            for name, tensor in tensors.items()
            if isinstance(name, str)
        }
    except Exception as error:  # from zipfile, pickle or torch, or because a value is not a tensor
        reason = f"{error}".partition("\n")[0] or type(error).__name__
        raise UserError("source", f"{file}: {reason}", "a file of tensors that torch.load reads") from None
