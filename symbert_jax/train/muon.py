"""Muon: a momentum that Newton-Schulz iterations make orthogonal (Jordan et al., 2024), for the matrices of the layers.

A matrix is what multiplies the activations of a layer: a kernel from all inputs to all outputs, so D x NH for the
queries of all heads, and in pairwise attention P of one head, which maps its queries to its keys. The singular values
of an update are about equal, so it changes the outputs by as much in every direction of the inputs. AdamW updates all
that is not such a matrix: embeddings, of which a batch looks up a few rows, the head, biases and norms.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec, reshard
from jaxtyping import Array, Float

# The root mean square of an update, about that of AdamW's, so that one learning rate and one weight decay serve both
# (Liu et al., 2025, section 2.2).
UPDATE_RMS = 0.2
# The number of input dimensions of a kernel, where it is not 1: the output projection of attention is NH x D.
_INPUT_DIMENSIONS = {"output": 2}


def is_matrix(path: tuple[Any, ...], weight: Any) -> bool:
    """Whether Muon updates a parameter, which has a leading layer dimension."""
    is_kernel = path[-1].key == "kernel"
    is_pair = path[-1].key.startswith("pair") and weight.ndim == 4  # [L, N, ...]; a diagonal P is no matrix
    return path[0].key == "layers" and (is_kernel or is_pair)


def scale_by_muon(momentum: float) -> optax.GradientTransformation:
    """Returns Muon without learning rate and weight decay, for the parameters that `is_matrix` selects."""
    accumulate = optax.trace(momentum, nesterov=True)

    def update(gradients: Any, state: Any, params: Any) -> tuple[Any, Any]:
        moments, state = accumulate.update(gradients, state, params)
        return jax.tree.map_with_path(_orthogonalize, moments), state

    return optax.GradientTransformation(accumulate.init, update)


def _orthogonalize(path: tuple[Any, ...], moment: Float[Array, "L ..."]) -> Float[Array, "L ..."]:
    """Returns the update of a parameter. Its matrices lie whole on a device, which no explicit sharding may split."""
    spec, mesh = jax.typeof(moment).sharding.spec, jax.sharding.get_abstract_mesh()
    if path[-1].key != "kernel":
        of_layers = jax.vmap(jax.vmap(_orthogonal))  # over L and N; only N is sharded
        return of_layers(moment) if mesh.empty else jax.shard_map(of_layers, in_specs=spec, out_specs=spec)(moment)
    num_inputs = _INPUT_DIMENSIONS.get(path[-2].key, 1)
    rows = math.prod(moment.shape[1 : 1 + num_inputs])

    def of_kernels(kernels: Float[Array, "layers ..."]) -> Float[Array, "layers ..."]:
        return jax.vmap(_orthogonal)(kernels.reshape(len(kernels), rows, -1)).reshape(kernels.shape)

    if mesh.empty:
        return of_kernels(moment)
    divided = functools.partial(_divide_layers, of_kernels, mesh.axis_names, mesh.size)
    replicated = PartitionSpec()
    return reshard(jax.shard_map(divided, in_specs=replicated, out_specs=replicated)(reshard(moment, replicated)), spec)


def _divide_layers(function: Any, axes: tuple[str, ...], count: int, layers: Float[Array, "L ..."]) -> Any:
    """Returns `function` of all layers, of which each of `count` devices computes some. Call it on every device.

    The parameters of a layer are the same for all rows of a batch, so without this division every device would compute
    all layers, however many devices there are.
    """
    share = -(-len(layers) // count)
    first = jax.lax.axis_index(axes) * share
    start = jnp.minimum(first, len(layers) - share)  # the last devices repeat layers, and add nothing for them
    found = function(jax.lax.dynamic_slice_in_dim(layers, start, share))
    is_own = (start + jnp.arange(share) >= first).reshape(-1, *[1] * (layers.ndim - 1))
    placed = jax.lax.dynamic_update_slice_in_dim(jnp.zeros_like(layers), jnp.where(is_own, found, 0), start, axis=0)
    return jax.lax.psum(placed, axes)


def _orthogonal(matrix: Float[Array, "rows columns"]) -> Float[Array, "rows columns"]:
    """Returns about the nearest matrix with equal singular values, scaled to a root mean square of `UPDATE_RMS`."""
    newton_schulz = optax.contrib.scale_by_muon(beta=0.0, nesterov=False)  # without a momentum of its own
    orthogonal, _ = newton_schulz.update(matrix, newton_schulz.init(matrix))
    return UPDATE_RMS * math.sqrt(max(matrix.shape)) * orthogonal
