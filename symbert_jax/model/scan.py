"""Runs equal layers, whose weights are stacked, in a loop, which keeps programs small."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

RunLayer = Callable[[Any, Any, Any], tuple[Any, Any]]  # (kind, carry, layer) -> (carry, output)


def scan_layers(run: RunLayer, carry: Any, layers: Any, kinds: Sequence[Any], unroll: int) -> tuple[Any, Any]:
    """Runs `layers` one after another; returns the last carry, and the outputs of all layers, stacked.

    kinds: the static first argument of `run` for the first layers; they repeat until the last layer. All of them are in
      one iteration of the loop, and layers that do not complete another iteration follow the loop.
    unroll: the layers per iteration, if it divides their number; more than one kind rounds it up to a multiple of the
      number of kinds. If it is at least the number of layers, there is no loop.
    """
    if len(kinds) == 1:
        return _scan(functools.partial(run, kinds[0]), carry, layers, unroll)

    def run_group(carry: Any, group: Any) -> tuple[Any, Any]:
        outputs = []
        for kind, layer in zip(itertools.cycle(kinds), _unstack(group), strict=False):
            carry, output = run(kind, carry, layer)
            outputs.append(output)
        return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)

    count, period = _count(layers), len(kinds)
    groups = count // period
    if unroll >= count or not groups:
        return run_group(carry, layers)
    looped, rest = _split(layers, groups * period)
    looped = jax.tree.map(lambda leaf: leaf.reshape(groups, period, *leaf.shape[1:]), looped)
    carry, outputs = _scan(run_group, carry, looped, -(-unroll // period))
    outputs = jax.tree.map(lambda leaf: leaf.reshape(groups * period, *leaf.shape[2:]), outputs)
    if rest is None:
        return carry, outputs
    carry, last = run_group(carry, rest)
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), outputs, last)


def _scan(run: Callable[[Any, Any], tuple[Any, Any]], carry: Any, layers: Any, unroll: int) -> tuple[Any, Any]:
    """Runs `layers` in a loop with `unroll` layers per iteration, or with one if `unroll` does not divide their number.

    If `unroll` is at least the number of layers, there is no loop.
    """
    count = _count(layers)
    if unroll >= count:
        return jax.lax.scan(run, carry, layers, unroll=True)
    if unroll == 1 or count % unroll:
        return jax.lax.scan(run, carry, layers)
    # Nested scans, because `scan(unroll=…)` of jax 0.10.2 raises for `reduced` weights unless it unrolls all layers.
    groups = jax.tree.map(lambda leaf: leaf.reshape(count // unroll, unroll, *leaf.shape[1:]), layers)
    carry, outputs = jax.lax.scan(lambda carry, group: jax.lax.scan(run, carry, group, unroll=True), carry, groups)
    return carry, jax.tree.map(lambda leaf: leaf.reshape(count, *leaf.shape[2:]), outputs)


def _count(layers: Any) -> int:
    return jax.tree.leaves(layers)[0].shape[0]


def _split(layers: Any, count: int) -> tuple[Any, Any]:
    """Returns the first `count` layers, and the others or None. Gradients are concatenated, where slices would add."""
    if count == _count(layers):
        return layers, None
    leaves, structure = jax.tree.flatten(layers)
    parts = [jax.lax.split(leaf, (count, leaf.shape[0] - count)) for leaf in leaves]
    first, rest = (jax.tree.unflatten(structure, part) for part in zip(*parts, strict=True))
    return first, rest


def _unstack(layers: Any) -> list[Any]:
    """Returns each of some layers by itself, split as in `_split`."""
    leaves, structure = jax.tree.flatten(layers)
    parts = [[part[0] for part in jax.lax.split(leaf, (1,) * leaf.shape[0])] for leaf in leaves]
    return [jax.tree.unflatten(structure, part) for part in zip(*parts, strict=True)]
