"""Names, shapes and digests of the arrays of a tree."""

import hashlib
from typing import Any

import jax
import numpy as np

from symbert_jax.errors import UserError

Shapes = dict[str, tuple[int, ...]]  # the shape of each array of a tree, by its name


def digest(params: Any) -> str:
    """Returns the SHA-256 of the names and values of all arrays of a tree."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(params):
        sha.update(_name(path).encode())
        sha.update(np.ascontiguousarray(leaf).tobytes())
    return sha.hexdigest()


def array_shapes(tree: Any) -> Shapes:
    return {_name(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(tree)}


def check_same_shapes(where: str, found: Shapes, wanted: Shapes) -> None:
    """Raises `UserError` about the first array in which two trees differ; `where` names the tree of `found`."""
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            hint = "set model.* and optim.name as in the config.json of that workdir, or take another workdir"
            raise UserError(where, _describe(name, found.get(name)), _describe(name, wanted.get(name)), hint)


def empty_arrays(tree: Any) -> Any:
    """Returns uninitialized numpy arrays with the shapes and types of a tree's leaves."""
    return jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), tree)


def _describe(name: str, shape: tuple[int, ...] | None) -> str:
    return f"no {name}" if shape is None else f"{name} of shape {list(shape)}"


def _name(path: tuple[Any, ...]) -> str:
    """Returns the keys, field names and indices in the path of a leaf, joined by dots: `0.mu.head.bias`.

    Orbax restores a tuple or a namedtuple as a mapping, in which the leaf has the same name.
    """
    return ".".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", None)))) for key in path)
