"""The programs of a kernel, and the parts of arrays that each gets."""

from collections.abc import Callable
from typing import Any

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array

from symbert_jax.model.triton.tiling import Tile

Ref = Any  # an array in the memory of the GPU
Operand = tuple[Any, pl.BlockSpec | None]  # an array, or for an output its shape, and the part that a program gets


def call(
    kernel: Callable[..., None],
    inputs: tuple[Operand, ...],
    outputs: tuple[Operand, ...],
    *,
    grid: tuple[int, int, int],
    tile: Tile,
    interpret: bool,
) -> Any:
    """Runs a program for each tile of each head of each row; neighbors share a head, whose arrays stay in the cache."""
    arrays, in_specs = zip(*inputs, strict=True)
    out_types, out_specs = zip(*outputs, strict=True)
    return pl.pallas_call(
        kernel,
        out_types,
        grid=grid,
        in_specs=in_specs,
        out_specs=out_specs,
        compiler_params=triton.CompilerParams(num_warps=tile.warps, num_stages=tile.stages),
        interpret=interpret,
    )(*arrays)


def type_of(x: Array) -> jax.ShapeDtypeStruct:
    """Returns the shape and type of an output that is like x."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def rows_of(x: Any, size: int | None = None) -> Operand:
    """Gives a program the vectors of a head, [T, H], or its tile of `size` of them."""
    shape = (None, size or x.shape[1], None, x.shape[3])
    return x, pl.BlockSpec(shape, lambda tile, head, row: (row, tile if size else 0, head, 0))


def numbers_of(x: Any, size: int | None = None) -> Operand:
    """Gives a program the numbers of a head, one per token, or its tile of `size` of them."""
    return x, pl.BlockSpec((None, None, size or x.shape[2]), lambda tile, head, row: (row, head, tile if size else 0))


def segments_of(x: Array | None) -> Operand:
    """Gives a program the segments of its row."""
    return x, None if x is None else pl.BlockSpec((None, x.shape[1]), lambda tile, head, row: (row, 0))


def states_of(x: Array | None) -> Operand:
    """Gives a program the two numbers of its head that determine the bits of dropout."""
    return x, None if x is None else pl.BlockSpec((None, None, 2), lambda tile, head, row: (row, head, 0))
