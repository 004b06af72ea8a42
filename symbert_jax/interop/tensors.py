"""Our parameters under the names and in the layout of PyTorch's BERT, and back.

A linear weight there is [out, in], layers are tensors of their own, and heads are not split off. The paper's code
(`plpi/bert`) differs from Hugging Face's by `pairwise_factors` alone.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

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
# what a pretraining checkpoint holds besides: buffers, and heads that masked-language modelling has no use for
_UNUSED = ("bert.embeddings.position_ids", "bert.pooler.", "cls.seq_relationship.")


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


def canonical(tensors: Mapping[str, np.ndarray], where: str) -> Tensors:
    """The tensors of masked-language modelling in float32, by today's names.

    Old checkpoints say `gamma` and `beta`, plain encoders leave out the prefix `bert.`, and some hold the tied table
    twice. What masked-language modelling has no use for is left out.

    Raises:
      UserError: a table that ought to be tied is not.
    """
    found: Tensors = {}
    for name, tensor in tensors.items():
        if name.startswith(("embeddings.", "encoder.", "pooler.")):
            name = f"bert.{name}"
        found[name.replace(".gamma", ".weight").replace(".beta", ".bias")] = tensor.astype(np.float32)
    for copy, name in _TIED.items():
        if copy in found and not np.array_equal(found[copy], found.setdefault(name, found[copy])):
            raise UserError(where, f"{copy} that differs from {name}", "tied ones: BERT's head uses the word table")
    return {name: tensor for name, tensor in found.items() if name not in _TIED and not name.startswith(_UNUSED)}


def has_head(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether canonical tensors bring a masked-language head, or are of a plain encoder."""
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
