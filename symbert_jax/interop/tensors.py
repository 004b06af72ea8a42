"""Converts parameters between our tree and the names and layout of PyTorch's BERT and ModernBERT.

In PyTorch, the weight of a linear map is [out, in], each encoder layer has tensors of its own, and heads are merged;
ModernBERT also fuses linear maps of the same input. The
tensors of the paper's code (`plpi/bert`) differ from those of Hugging Face by `pairwise_factors` alone.
"""

import math
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from symbert_jax.config import ModelConfig
from symbert_jax.errors import UserError
from symbert_jax.interop.layouts import LAYOUTS, Layout, layout_of
from symbert_jax.model.tree import Params

Tensors = dict[str, np.ndarray]

# The parts that the prefix of an encoder may have. It may be a submodule, for example of DataParallel, torch.compile or
# Lightning.
_WRAPPERS = ("bert", "model", "module", "_orig_mod", "encoder", "auto_model", "0")


def to_torch(params: Params) -> Tensors:
    """Returns every parameter in PyTorch's layout by its PyTorch name. The values do not change by a bit."""
    layout = layout_of(params)
    parts: dict[str, dict[int, np.ndarray]] = {}  # of each tensor
    for path, leaf in _leaves(params):
        weights = np.asarray(leaf) if _is_stacked(path) else np.asarray(leaf)[None]
        for name, weight in zip(_torch_names(layout, path, leaf), weights, strict=True):
            merged = weight.reshape(_merge_heads(path, weight.shape))
            whole, place, _ = layout.fused_name(name)
            parts.setdefault(whole, {})[place] = merged.T if _is_transposed(path) else merged
    wholes = {name: np.concatenate([each[place] for place in sorted(each)]) for name, each in parts.items()}
    return {name: np.ascontiguousarray(tensor) for name, tensor in wholes.items()}


def from_torch(tensors: Mapping[str, np.ndarray], shapes: Params, where: str) -> Params:
    """Returns the parameters of a model from its PyTorch tensors.

    tensors: the tensors by their current names, see `canonical`.
    shapes: a tree with the shape of each parameter, see `bert.abstract`.
    where: names the source in errors.

    Raises:
      UserError: a tensor is missing, unknown, or has the wrong shape.
    """
    layout = layout_of(shapes)
    names = [name for path, leaf in _leaves(shapes) for name in _torch_names(layout, path, leaf)]
    known = {layout.fused_name(name)[0] for name in names}
    missing, unknown = sorted(known - tensors.keys()), sorted(tensors.keys() - known)
    if missing or unknown:
        found = "; ".join(
            f"{kind} {_shorten(names)}" for kind, names in (("no", missing), ("unknown", unknown)) if names
        )
        raise UserError(where, found, "the tensors that its config.json implies, no more and no fewer")

    def convert(path: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
        whole, place, count = layout.fused_name(name)
        merged = _merge_heads(path, shape)
        wanted = tuple(reversed(merged)) if _is_transposed(path) else merged
        wanted_whole = (count * wanted[0], *wanted[1:])
        if tensors[whole].shape != wanted_whole:
            found = f"{whole} of shape {list(tensors[whole].shape)}"
            raise UserError(where, found, f"{list(wanted_whole)}, by its config.json")
        tensor = tensors[whole][place * wanted[0] : (place + 1) * wanted[0]]
        return np.ascontiguousarray((tensor.T if _is_transposed(path) else tensor).reshape(shape))

    leaves = []
    for path, leaf in _leaves(shapes):
        shape = leaf.shape[1:] if _is_stacked(path) else leaf.shape
        parts = [convert(path, name, shape) for name in _torch_names(layout, path, leaf)]
        leaves.append(np.stack(parts) if _is_stacked(path) else parts[0])
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def canonical(tensors: Mapping[str, np.ndarray], where: str) -> tuple[Tensors, list[str]]:
    """Returns the tensors of the masked-language model, and the names of the modules that are left out.

    The tensors are in float32 and have their current names: old checkpoints use the names `gamma` and `beta`, plain
    encoders omit the prefix `bert.` or `model.`, wrappers of models add other prefixes, and some checkpoints hold tied
    parameters twice. Other heads, the pooler and buffers are left out; the names do not include buffers.

    where: names the source in errors.

    Raises:
      UserError: there is no encoder; a tensor occurs twice, is not floating-point or is not finite; or two copies of a
        tied parameter differ.
    """
    layout, encoder_prefix, head_prefix = _find_layout(tensors, where)
    found: Tensors = {}
    original_names: dict[str, str] = {}  # by current name
    left_out = set()
    for name, tensor in tensors.items():
        rest = name.removeprefix(encoder_prefix)
        # Without the encoder's own prefix both are equal: then the next part of the name tells the encoder from heads.
        is_encoder = name.startswith(encoder_prefix) and (
            encoder_prefix != head_prefix or rest.startswith(layout.encoder_parts)
        )
        current = f"{layout.encoder}{rest}" if is_encoder else name.removeprefix(head_prefix)
        current = current.replace(".gamma", ".weight").replace(".beta", ".bias")
        if current.startswith(layout.unused) or not current.startswith((layout.encoder, *layout.head_parts)):
            left_out.add(current.rpartition(".")[0] or current)
        elif current in found:
            raise UserError(where, f"{current} twice, as {original_names[current]} and {name}", "every tensor once")
        else:
            found[current] = _as_float32(name, tensor, where)
            original_names[current] = name
    for copy, name in layout.tied.items():
        if copy not in found:
            continue
        found.setdefault(name, found[copy])  # some checkpoints have only the copy
        if not np.array_equal(found[copy], found[name]):
            wanted = f"equal tensors: in {layout.title}, they are one parameter"
            raise UserError(where, f"{copy} that differs from {name}", wanted)
        del found[copy]
    if "classifier" in left_out and layout.name("head.bias") not in found:  # then the head is a part of the classifier
        heads = [name for name in found if name.startswith(layout.head_parts)]
        left_out |= {name.rpartition(".")[0] for name in heads}
        found = {name: tensor for name, tensor in found.items() if name not in heads}
    return found, sorted(left_out - {f"{layout.encoder}embeddings"})


def check_sizes(tensors: Mapping[str, np.ndarray], model: ModelConfig, where: str) -> None:
    """Checks the sizes of the tables of word and position embeddings, and the number of layers, of canonical tensors.

    Call it before arrays of the model's sizes are allocated: the sizes in a wrong config may be huge.

    Raises:
      UserError: one of the two tables has the wrong shape, or the encoder the wrong number of layers.
    """
    layout, _, _ = _find_layout(tensors, where)
    for path, wanted in (
        ("embeddings.word", [model.vocab_size, model.dim]),
        ("embeddings.position", [model.length, model.dim]),
    ):
        name = layout.parameters.get(path, "")
        if name in tensors and (shape := list(tensors[name].shape)) != wanted:
            raise UserError(where, f"{name} of shape {shape}", f"{wanted}, by its config.json")
    layers = {name.removeprefix(layout.layers).partition(".")[0] for name in tensors if name.startswith(layout.layers)}
    if len(layers) != model.layers:
        raise UserError(where, f"{len(layers)} layers", f"num_hidden_layers={model.layers}, by its config.json")


def _find_layout(tensors: Mapping[str, np.ndarray], where: str) -> tuple[Layout, str, str]:
    """Returns the layout, the prefix of the names of the encoder's tensors, and the prefix of those of the heads."""
    found = []
    for layout in LAYOUTS:
        table = layout.name("embeddings.word").removeprefix(layout.encoder)
        found += [(layout, name.removesuffix(table)) for name in tensors if f".{name}".endswith(f".{table}")]
    if len(found) != 1:
        tables = " or ".join(layout.name("embeddings.word").removeprefix(layout.encoder) for layout in LAYOUTS)
        count = f"{len(found)} tables" if found else "no table"
        raise UserError(where, f"{count} {tables}", "the tensors of one BERT or ModernBERT")
    ((layout, prefix),) = found
    if unknown := [part for part in prefix.split(".")[:-1] if part not in _WRAPPERS]:
        raise UserError(where, f"the tensors of {reprlib.repr('.'.join(unknown))}", f"those of {layout.title}")
    return layout, prefix, prefix.removesuffix(layout.encoder)


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
    return any(name.startswith(layout.head_parts) for name in tensors for layout in LAYOUTS)


def _leaves(params: Params) -> Iterator[tuple[str, Any]]:
    """Yields the path of each parameter, separated by dots, and the parameter."""
    for path, leaf in jax.tree.leaves_with_path(params):
        yield jax.tree_util.keystr(path, simple=True, separator="."), leaf


def _torch_names(layout: Layout, path: str, leaf: Any) -> list[str]:
    """Returns the PyTorch name of a parameter or, if it stacks all layers, one name for each layer."""
    return layout.layer_names(path, leaf.shape[0]) if _is_stacked(path) else [layout.name(path)]


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
