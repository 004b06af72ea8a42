"""From Flax NNX modules to plain trees and back: outside `model/` parameters are nested dicts of arrays.

A module is named by its class and the arguments of its constructor, all hashable, the random keys left out.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jaxtyping import PRNGKeyArray

from symbert_jax.config import MeshConfig
from symbert_jax.sharding import parameter_spec

Params = dict[str, Any]
Kind = Callable[..., nnx.Module]


def init(mesh: MeshConfig, key: PRNGKeyArray, kind: Kind, *arguments: Any) -> Params:
    """Fresh parameters, each born where it will live."""
    shardings = jax.tree.map(lambda shape: shape.sharding, abstract(mesh, kind, *arguments))
    return jax.jit(lambda key: make(key, kind, *arguments), out_shardings=shardings)(key)


def make(key: PRNGKeyArray, kind: Kind, *arguments: Any) -> Params:
    """Fresh parameters, for use under `jax.jit`."""
    return nnx.to_pure_dict(nnx.state(kind(*arguments, nnx.Rngs(key))))


def abstract(mesh: MeshConfig, kind: Kind, *arguments: Any) -> Params:
    """Shape, type and sharding of every parameter on the current mesh, without any array."""
    devices = jax.sharding.get_mesh()

    def describe(path: tuple[Any, ...], weight: nnx.Variable) -> jax.ShapeDtypeStruct:
        dims = "L" * (path[0].key == "layers") + weight.dims
        sharding = jax.NamedSharding(devices, parameter_spec(dims, mesh))
        return jax.ShapeDtypeStruct(weight.shape, weight.dtype, sharding=sharding)

    _, state = _structure(kind, *arguments)
    described = jax.tree.map_with_path(describe, state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    return nnx.to_pure_dict(described)


def module(params: Params, kind: Kind, *arguments: Any) -> Any:
    """The module around `params`."""
    structure, _ = _structure(kind, *arguments)
    return nnx.merge(structure, nnx.State(params))


def size(kind: Kind, *arguments: Any) -> int:
    """The number of parameters."""
    _, state = _structure(kind, *arguments)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state))


@functools.cache
def _structure(kind: Kind, *arguments: Any) -> tuple[nnx.GraphDef, nnx.State]:
    """The module without its arrays, and the shapes and dimension names of these."""
    return nnx.split(nnx.eval_shape(lambda: kind(*arguments, nnx.Rngs(0))))
