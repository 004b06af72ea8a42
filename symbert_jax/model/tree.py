"""From Flax NNX modules to nested dicts of arrays and back: outside `model/`, parameters are nested dicts.

A module is given by its class and the arguments of its constructor without `rngs`; all of these are hashable.
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
ModuleClass = Callable[..., nnx.Module]


def init(mesh_config: MeshConfig, key: PRNGKeyArray, module_class: ModuleClass, *arguments: Any) -> Params:
    """Draws parameters, each created with its sharding."""
    shardings = jax.tree.map(lambda shape: shape.sharding, abstract(mesh_config, module_class, *arguments))
    return jax.jit(lambda key: make(key, module_class, *arguments), out_shardings=shardings)(key)


def make(key: PRNGKeyArray, module_class: ModuleClass, *arguments: Any) -> Params:
    """Draws parameters without a sharding, for use under `jax.jit`."""
    return nnx.to_pure_dict(nnx.state(module_class(*arguments, nnx.Rngs(key))))


def abstract(mesh_config: MeshConfig, module_class: ModuleClass, *arguments: Any) -> Params:
    """Returns shape, type and sharding of every parameter on the current mesh, without any array."""
    mesh = jax.sharding.get_mesh()

    def describe(path: tuple[Any, ...], weight: nnx.Variable) -> jax.ShapeDtypeStruct:
        dims = "L" * (path[0].key == "layers") + weight.dims
        sharding = jax.NamedSharding(mesh, parameter_spec(dims, mesh_config))
        return jax.ShapeDtypeStruct(weight.shape, weight.dtype, sharding=sharding)

    _, state = _split_abstract(module_class, *arguments)
    described = jax.tree.map_with_path(describe, state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    return nnx.to_pure_dict(described)


def module(params: Params, module_class: ModuleClass, *arguments: Any) -> Any:
    """Returns the module with these parameters."""
    structure, _ = _split_abstract(module_class, *arguments)
    return nnx.merge(structure, nnx.State(params))


def size(module_class: ModuleClass, *arguments: Any) -> int:
    """Returns the number of parameters."""
    _, state = _split_abstract(module_class, *arguments)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state))


@functools.cache
def _split_abstract(module_class: ModuleClass, *arguments: Any) -> tuple[nnx.GraphDef, nnx.State]:
    """Returns the structure of the module, and its parameters with shapes and letters instead of arrays."""
    return nnx.split(nnx.eval_shape(lambda: module_class(*arguments, nnx.Rngs(0))))
