"""Our parameters under the names and in the layout of PyTorch's BERT, and back.

A linear weight there is [out, in], layers are tensors of their own, and heads are not split off. The paper's code
(`plpi/bert`) differs from Hugging Face's by `pairwise_factors` alone.
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
_WHOLE = {
    "embeddings.word": "bert.embeddings.word_embeddings.weight",
    "embeddings.position": "bert.embeddings.position_embeddings.weight",
    "embeddings.token_type": "bert.embeddings.token_type_embeddings.weight",
    "layers.attention.pair": f"{_LAYER}.attention.self.pairwise_factors",
    "head.bias": "cls.predictions.bias",
}
_MODULES = {
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
    "head.pooler": "bert.pooler.dense",
    "head.classifier": "classifier",
}
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
_TIED = {
    "cls.predictions.decoder.weight": _WHOLE["embeddings.word"],
    "cls.predictions.decoder.bias": _WHOLE["head.bias"],
}
# other tensors of an encoder: buffers, and the pooler of other heads
_BUFFERS = "bert.embeddings"
_UNUSED = (f"{_BUFFERS}.position_ids", f"{_BUFFERS}.token_type_ids", "bert.pooler.")
_PARTS = ("embeddings.", "encoder.", "pooler.")
_TABLE = "embeddings.word_embeddings.weight"
# prefixes of names where a BERT is part of another module: DataParallel, torch.compile, Lightning, …
_WRAPPERS = ("bert", "model", "module", "_orig_mod", "encoder", "auto_model", "0")


def to_torch(params: Params) -> Tensors:
    """Every parameter by its PyTorch name, bit for bit."""
    tensors = {}
    for path, leaf in _leaves(params):
        weights = np.asarray(leaf) if _stacked(path) else np.asarray(leaf)[None]
        for name, weight in zip(_names(path, leaf), weights, strict=True):
            flat = weight.reshape(_flat(path, weight.shape))
            tensors[name] = np.ascontiguousarray(flat.T if _transposed(path) else flat)
    return tensors


def from_torch(tensors: Mapping[str, np.ndarray], shapes: Params, where: str) -> Params:
    """The parameters of `shapes` (see `model/bert.abstract`).

    tensors: by today's names, see `canonical`. where: names the source in errors.

    Raises:
      UserError: tensors are missing, are too many, or have other shapes.
    """
    known = {name for path, leaf in _leaves(shapes) for name in _names(path, leaf)}
    missing, extra = sorted(known - tensors.keys()), sorted(tensors.keys() - known)
    if missing or extra:
        found = "; ".join(f"{word} {_list(some)}" for word, some in (("no", missing), ("unknown", extra)) if some)
        raise UserError(where, found, "the tensors that its config.json implies, no more and no fewer")

    def read(path: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
        tensor = tensors[name].T if _transposed(path) else tensors[name]
        if tensor.shape != (flat := _flat(path, shape)):
            wanted = list(reversed(flat) if _transposed(path) else flat)
            raise UserError(where, f"{name} of shape {list(tensors[name].shape)}", f"{wanted}, by its config.json")
        return np.ascontiguousarray(tensor.reshape(shape))

    leaves = []
    for path, leaf in _leaves(shapes):
        shape = leaf.shape[1:] if _stacked(path) else leaf.shape
        parts = [read(path, name, shape) for name in _names(path, leaf)]
        leaves.append(np.stack(parts) if _stacked(path) else parts[0])
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def canonical(tensors: Mapping[str, np.ndarray], where: str) -> tuple[Tensors, list[str]]:
    """The tensors of masked-language modelling in float32, by today's names, and the modules that were left out.

    Old checkpoints use the names `gamma` and `beta`, plain encoders omit the prefix `bert.`, wrappers of models add
    prefixes, and some checkpoints hold the tied table twice. Other heads, the pooler and buffers are left out.

    Raises:
      UserError: there is no encoder of BERT, a tensor occurs twice, is not of floating-point numbers or not finite,
        or a table that must be tied is not.
    """
    encoder, outer = _prefixes(tensors, where)
    found: Tensors = {}
    left = set()
    for name, tensor in tensors.items():
        rest = name.removeprefix(encoder)
        inside = name.startswith(encoder) and (encoder != outer or rest.startswith(_PARTS))
        today = f"bert.{rest}" if inside else name.removeprefix(outer)
        today = today.replace(".gamma", ".weight").replace(".beta", ".bias")
        if today.startswith(_UNUSED) or not today.startswith(("bert.", "cls.predictions.")):
            left.add(today.rpartition(".")[0] or today)
        elif today in found:
            raise UserError(where, f"{today} twice, as {name} too", "every tensor once")
        else:
            found[today] = _as_float32(name, tensor, where)
    for copy, name in _TIED.items():
        if copy in found and not np.array_equal(found[copy], found.setdefault(name, found[copy])):
            raise UserError(where, f"{copy} that differs from {name}", "tied ones: BERT's head uses the word table")
    return {name: tensor for name, tensor in found.items() if name not in _TIED}, sorted(left - {_BUFFERS})


def check_sizes(tensors: Mapping[str, np.ndarray], model: ModelConfig, where: str) -> None:
    """Compares canonical tensors with a model before anything of the model's size is allocated.

    Raises:
      UserError: a table has another shape, or the encoder another number of layers.
    """
    for name, wanted in (
        (_WHOLE["embeddings.word"], [model.vocab_size, model.dim]),
        (_WHOLE["embeddings.position"], [model.length, model.dim]),
    ):
        if name in tensors and (shape := list(tensors[name].shape)) != wanted:
            raise UserError(where, f"{name} of shape {shape}", f"{wanted}, by its config.json")
    prefix = _LAYER.format("")
    layers = {name.removeprefix(prefix).partition(".")[0] for name in tensors if name.startswith(prefix)}
    if len(layers) != model.layers:
        raise UserError(where, f"{len(layers)} layers", f"num_hidden_layers={model.layers}, by its config.json")


def _prefixes(tensors: Mapping[str, np.ndarray], where: str) -> tuple[str, str]:
    """The prefixes of the names of the encoder's tensors and of its heads' tensors."""
    prefixes = [name.removesuffix(_TABLE) for name in tensors if f".{name}".endswith(f".{_TABLE}")]
    if len(prefixes) != 1:
        found = f"{len(prefixes)} tables {_TABLE}" if prefixes else f"no table {_TABLE}"
        raise UserError(where, found, "the tensors of one BERT")
    (prefix,) = prefixes
    if unknown := [part for part in prefix.split(".")[:-1] if part not in _WRAPPERS]:
        raise UserError(where, f"the tensors of {reprlib.repr('.'.join(unknown))}", "those of BERT")
    return prefix, prefix.removesuffix("bert.")


def _as_float32(name: str, tensor: np.ndarray, where: str) -> np.ndarray:
    if not jax.numpy.issubdtype(tensor.dtype, jax.numpy.floating):
        raise UserError(where, f"{name} of type {tensor.dtype}", "floating-point numbers")
    with np.errstate(over="ignore"):  # such values are refused below
        weights = tensor.astype(np.float32)
    if not np.isfinite(weights).all():
        raise UserError(where, f"{name} with NaN, infinite or too large values", "finite ones of float32")
    return weights


def has_head(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether canonical tensors include a masked-language head; those of a plain encoder do not."""
    return any(name.startswith("cls.predictions.") for name in tensors)


def _leaves(params: Params) -> Iterator[tuple[str, Any]]:
    for path, leaf in jax.tree.leaves_with_path(params):
        yield jax.tree_util.keystr(path, simple=True, separator="."), leaf


def _names(path: str, leaf: Any) -> list[str]:
    """The PyTorch name of a parameter; of a stacked one those of its layers."""
    module, _, last = path.rpartition(".")
    name = _WHOLE[path] if path in _WHOLE else f"{_MODULES[module]}.{_LEAVES[last]}"
    return [name.format(i) for i in range(leaf.shape[0])] if _stacked(path) else [name]


def _stacked(path: str) -> bool:
    return path.startswith("layers.")


def _transposed(path: str) -> bool:
    return path.endswith(".kernel")


def _flat(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without heads: [D, N, H] and [N, H, D] are D x D, a bias [N, H] is D."""
    if path.endswith(".bias"):
        return (math.prod(shape),)
    return (math.isqrt(math.prod(shape)),) * 2 if _transposed(path) and len(shape) == 3 else shape


def _list(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
