"""Search for the largest batch size whose training step fits on a slice."""

import dataclasses
from collections.abc import Callable

from symbert_jax.chips import GIB
from symbert_jax.config import Config
from symbert_jax.estimate.programs import DoesNotFit, compile_train, make_slice_mesh
from symbert_jax.estimate.slices import Slice


def with_largest_batch(config: Config, target: Slice) -> Config:
    """Returns the config with the largest batch size that fits and splits evenly into micro-batches and shards.

    `find_largest` lists the numbers of rows per micro-batch and shard that are tried. If none fits, returns the config
    with the smallest batch size. Prints a line for each size that it compiles.
    """
    mesh = make_slice_mesh(config, target)
    # `rows` below counts the rows of one micro-batch on one shard of the `data` axis
    row_multiple = mesh.shape["data"] * config.optim.accumulate

    def resized(rows: int) -> Config:
        return dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=rows * row_multiple))

    def fits(rows: int) -> bool:
        try:
            memory, does_fit = compile_train(resized(rows), target).memory, True
        except DoesNotFit as error:
            memory, does_fit = error.needed, False
        usage = f"{memory / GIB:.2f} of {target.chip.hbm / GIB:.2f} GiB" + ("" if does_fit else ", does not fit")
        print(f"{batch_text(rows * row_multiple, mesh.size)}: {usage}", flush=True)
        return does_fit

    return resized(find_largest(fits) or 1)


def find_largest(fits: Callable[[int], bool]) -> int:
    """Returns the largest of 1, 2, 4, 8, 16, 24, 32, ... that fits, or 0 if none does.

    fits: if it is true for a number, it must be true for every smaller one.
    """
    low, high = 0, 8
    while fits(high):
        low, high = high, 2 * high
    if not low:
        return next((rows for rows in (4, 2, 1) if fits(rows)), 0)
    while high - low > 8:
        middle = (low + high) // 16 * 8
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def batch_text(batch_size: int, chips: int) -> str:
    """Returns the size of a batch and its rows per chip as text."""
    return f"batch {batch_size:,}, {batch_size / chips:g} rows per chip"
