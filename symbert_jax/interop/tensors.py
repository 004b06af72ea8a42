"""Converts parameters between our tree and the names and layout of PyTorch's BERT.

In PyTorch's BERT, the weight of a linear map is [out, in], each encoder layer has tensors of its own, and heads are
merged. The tensors of the paper's code (`plpi/bert`) differ from those of Hugging Face by `pairwise_factors` alone.
"""

import math
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from symbert_jax.config import ModelConfig
from symbert_jax.errors import UserError
from symbert_jax.model.tree import Params

Tensors = dict[str, np.ndarray]

_LAYER = "bert.encoder.layer.{}"
_PARAMETERS = {  # PyTorch's names of parameters, by the path in our tree
    "embeddings.word": "bert.embeddings.word_embeddings.weight",
    "embeddings.position": "bert.embeddings.position_embeddings.weight",
    "embeddings.token_type": "bert.embeddings.token_type_embeddings.weight",
    "layers.attention.pair": f"{_LAYER}.attention.self.pairwise_factors",
    "head.bias": "cls.predictions.bias",
}
_MODULES = {  # PyTorch's names of modules, by the path in our tree; `_WEIGHTS` names their parameters
    "embeddings.norm": "bert.embeddings.LayerNorm",
    "layers.attention.query": f"{_LAYER}.attention.self.query",
    "layers.attention.key": f"{_LAYER}.attention.self.key",
    "layers.attention.value": f"{_LAYER}.attention.self.value",
    "layers.attention.output": f"{_LAYER}.attention.output.dense",
    "layers.attention_norm": f"{_LAYER}.attention.output.LayerNorm",
    "layers.mlp.up": f"{_LAYER}.intermediate.dense",
    "layers.mlp.down": f"{_LAYER}.output.dense",
    "layers.mlp_norm": f"{_LAYER}.output.LayerNorm",
    "head.dense": "cls.predictions.transform.dense",
    "head.norm": "cls.predictions.transform.LayerNorm",
    "head.pooler": "bert.pooler.dense",  # it and the next: only in fine-tuned models; `canonical` drops them
    "head.classifier": "classifier",
}
_WEIGHTS = {"kernel": "weight", "scale": "weight", "bias": "bias"}
_TIED = {  # the names of tensors that some checkpoints hold twice, by the name of the copy
    "cls.predictions.decoder.weight": _PARAMETERS["embeddings.word"],
    "cls.predictions.decoder.bias": _PARAMETERS["head.bias"],
}
_BUFFER_MODULE = "bert.embeddings"  # the torch module that has buffers
# Tensors of an encoder that a masked-language model does not use: buffers, and the pooler.
_UNUSED = (f"{_BUFFER_MODULE}.position_ids", f"{_BUFFER_MODULE}.token_type_ids", "bert.pooler.")
_ENCODER_PARTS = ("embeddings.", "encoder.", "pooler.")
_WORD_TABLE = "embeddings.word_embeddings.weight"  # whatever precedes it in a checkpoint is the prefix of the encoder
# The parts that this prefix may have. BERT may be a submodule, for example of DataParallel, torch.compile or Lightning.
_WRAPPERS = ("bert", "model", "module", "_orig_mod", "encoder", "auto_model", "0")


def to_torch(params: Params) -> Tensors:
    """Returns every parameter in PyTorch's layout by its PyTorch name. The values do not change by a bit."""
    tensors = {}
    for path, leaf in _leaves(params):
        weights = np.asarray(leaf) if _is_stacked(path) else np.asarray(leaf)[None]
        for name, weight in zip(_torch_names(path, leaf), weights, strict=True):
            merged = weight.reshape(_merge_heads(path, weight.shape))
            tensors[name] = np.ascontiguousarray(merged.T if _is_transposed(path) else merged)
    return tensors


def from_torch(tensors: Mapping[str, np.ndarray], shapes: Params, where: str) -> Params:
    """Returns the parameters of a model from its PyTorch tensors.

    tensors: the tensors by their current names, see `canonical`.
    shapes: a tree with the shape of each parameter, see `bert.abstract`.
    where: names the source in errors.

    Raises:
      UserError: a tensor is missing, unknown, or has the wrong shape.
    """
    known = {name for path, leaf in _leaves(shapes) for name in _torch_names(path, leaf)}
    missing, unknown = sorted(known - tensors.keys()), sorted(tensors.keys() - known)
    if missing or unknown:
        found = "; ".join(
            f"{kind} {_shorten(names)}" for kind, names in (("no", missing), ("unknown", unknown)) if names
        )
        raise UserError(where, found, "the tensors that its config.json implies, no more and no fewer")

    def convert(path: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
        tensor = tensors[name].T if _is_transposed(path) else tensors[name]
        if tensor.shape != (merged := _merge_heads(path, shape)):
            wanted = list(reversed(merged) if _is_transposed(path) else merged)
            raise UserError(where, f"{name} of shape {list(tensors[name].shape)}", f"{wanted}, by its config.json")
        return np.ascontiguousarray(tensor.reshape(shape))

    leaves = []
    for path, leaf in _leaves(shapes):
        shape = leaf.shape[1:] if _is_stacked(path) else leaf.shape
        parts = [convert(path, name, shape) for name in _torch_names(path, leaf)]
        leaves.append(np.stack(parts) if _is_stacked(path) else parts[0])
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def canonical(tensors: Mapping[str, np.ndarray], where: str) -> tuple[Tensors, list[str]]:
    """Returns the tensors of the masked-language model, and the names of the modules that are left out.

    The tensors are in float32 and have their current names: old checkpoints use the names `gamma` and `beta`, plain
    encoders omit the prefix `bert.`, wrappers of models add other prefixes, and some checkpoints hold tied parameters
    twice. Other heads, the pooler and buffers are left out. The names do not include `bert.embeddings`,
    of which only buffers are left out.

    where: names the source in errors.

    Raises:
      UserError: there is no encoder of BERT; a tensor occurs twice, is not floating-point or is not finite; or two
        copies of a tied parameter differ.
    """
    encoder_prefix, head_prefix = _prefixes(tensors, where)
    found: Tensors = {}
    original_names: dict[str, str] = {}  # by current name
    left_out = set()
    for name, tensor in tensors.items():
        rest = name.removeprefix(encoder_prefix)
        # Without `bert.` both prefixes are equal: then the next part of the name tells the encoder from the heads.
        is_encoder = name.startswith(encoder_prefix) and (
            encoder_prefix != head_prefix or rest.startswith(_ENCODER_PARTS)
        )
        current = f"bert.{rest}" if is_encoder else name.removeprefix(head_prefix)
        current = current.replace(".gamma", ".weight").replace(".beta", ".bias")
        if current.startswith(_UNUSED) or not current.startswith(("bert.", "cls.predictions.")):
            left_out.add(current.rpartition(".")[0] or current)
        elif current in found:
            raise UserError(where, f"{current} twice, as {original_names[current]} and {name}", "every tensor once")
        else:
            found[current] = _as_float32(name, tensor, where)
            original_names[current] = name
    for copy, name in _TIED.items():
        if copy not in found:
            continue
        found.setdefault(name, found[copy])  # some checkpoints have only the copy
        if not np.array_equal(found[copy], found[name]):
            raise UserError(where, f"{copy} that differs from {name}", "equal tensors: in BERT, they are one parameter")
    return {name: tensor for name, tensor in found.items() if name not in _TIED}, sorted(left_out - {_BUFFER_MODULE})


def check_sizes(tensors: Mapping[str, np.ndarray], model: ModelConfig, where: str) -> None:
    """Checks the sizes of the tables of word and position embeddings, and the number of layers, of canonical tensors.

    Call it before arrays of the model's sizes are allocated: the sizes in a wrong config may be huge.

    Raises:
      UserError: one of the two tables has the wrong shape, or the encoder the wrong number of layers.
    """
    for name, wanted in (
        (_PARAMETERS["embeddings.word"], [model.vocab_size, model.dim]),
        (_PARAMETERS["embeddings.position"], [model.length, model.dim]),
    ):
        if name in tensors and (shape := list(tensors[name].shape)) != wanted:
            raise UserError(where, f"{name} of shape {shape}", f"{wanted}, by its config.json")
    prefix = _LAYER.format("")
    layers = {name.removeprefix(prefix).partition(".")[0] for name in tensors if name.startswith(prefix)}
    if len(layers) != model.layers:
        raise UserError(where, f"{len(layers)} layers", f"num_hidden_layers={model.layers}, by its config.json")


def _prefixes(tensors: Mapping[str, np.ndarray], where: str) -> tuple[str, str]:
    """Returns the prefix of the names of the encoder's tensors, and the prefix of the names of the heads' tensors."""
    prefixes = [name.removesuffix(_WORD_TABLE) for name in tensors if f".{name}".endswith(f".{_WORD_TABLE}")]
    if len(prefixes) != 1:
        found = f"{len(prefixes)} tables {_WORD_TABLE}" if prefixes else f"no table {_WORD_TABLE}"
        raise UserError(where, found, "the tensors of one BERT")
    (prefix,) = prefixes
    if unknown := [part for part in prefix.split(".")[:-1] if part not in _WRAPPERS]:
        raise UserError(where, f"the tensors of {reprlib.repr('.'.join(unknown))}", "those of BERT")
    return prefix, prefix.removesuffix("bert.")


def _as_float32(name: str, tensor: np.ndarray, where: str) -> np.ndarray:
    """Converts a tensor to float32; raises `UserError` if it is not floating-point, or not finite in float32."""
    if not jax.numpy.issubdtype(tensor.dtype, jax.numpy.floating):
        raise UserError(where, f"{name} of type {tensor.dtype}", "floating-point numbers")
    with np.errstate(over="ignore"):  # values that overflow are refused below
        weights = tensor.astype(np.float32)
    if not np.isfinite(weights).all():
        raise UserError(where, f"{name} with NaN, infinite or too large values", "finite values of float32")
    return weights


def has_head(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether canonical tensors include a masked-language head, which a plain encoder lacks."""
    return any(name.startswith("cls.predictions.") for name in tensors)


def _leaves(params: Params) -> Iterator[tuple[str, Any]]:
    """Yields the path of each parameter, as in `_PARAMETERS`, and the parameter."""
    for path, leaf in jax.tree.leaves_with_path(params):
        yield jax.tree_util.keystr(path, simple=True, separator="."), leaf


def _torch_names(path: str, leaf: Any) -> list[str]:
    """Returns the PyTorch name of a parameter or, if it stacks all layers, one name for each layer."""
    module, _, last = path.rpartition(".")
    name = _PARAMETERS[path] if path in _PARAMETERS else f"{_MODULES[module]}.{_WEIGHTS[last]}"
    return [name.format(i) for i in range(leaf.shape[0])] if _is_stacked(path) else [name]


def _is_stacked(path: str) -> bool:
    return path.startswith("layers.")


def _is_transposed(path: str) -> bool:
    return path.endswith(".kernel")


def _merge_heads(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns a shape with heads merged: kernels [D, N, H] and [N, H, D] become [D, D], a bias [N, H] becomes [D]."""
    if path.endswith(".bias"):
        return (math.prod(shape),)
    return (math.isqrt(math.prod(shape)),) * 2 if _is_transposed(path) and len(shape) == 3 else shape


def _shorten(names: list[str], limit: int = 4) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
