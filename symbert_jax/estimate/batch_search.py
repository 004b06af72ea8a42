"""Search for the batch size with which training on a slice is fastest."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from symbert_jax.chips import GIB
from symbert_jax.config import Config
from symbert_jax.estimate.programs import DoesNotFit, compile_train, make_slice_mesh
from symbert_jax.estimate.slices import Slice
from symbert_jax.render import markdown_table


class Attempt(NamedTuple):
    """A batch size for which the training step was compiled."""

    batch_size: int
    memory: float  # bytes per chip that the step needs
    seconds: float | None  # the estimated time of the step; None: it does not fit

    def tokens_per_second(self, length: int) -> float:
        """Returns the estimated rate of rows of `length` tokens, 0 if the step does not fit."""
        return self.batch_size * length / self.seconds if self.seconds else 0.0


def with_fastest_batch(config: Config, target: Slice) -> Config:
    """Returns the config with the batch size that trains the most tokens per second by the estimate.

    `find_largest` lists the numbers of rows per micro-batch and shard that are tried, up to the largest that fits. If
    none fits, returns the config with the smallest batch size. Prints a line for each size that it compiles, and then
    a table of those that fit.
    """
    mesh = make_slice_mesh(config, target)
    # `rows` below counts the rows of one micro-batch on one shard of the `data` axis
    row_multiple = mesh.shape["data"] * config.optim.accumulate
    attempts: list[Attempt] = []

    def resized(batch_size: int) -> Config:
        return dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=batch_size))

    def fits(rows: int) -> bool:
        batch_size = rows * row_multiple
        try:
            program = compile_train(resized(batch_size), target)
            attempt = Attempt(batch_size, program.memory, program.seconds)
        except DoesNotFit as error:
            attempt = Attempt(batch_size, error.needed, None)
        attempts.append(attempt)
        usage = f"{attempt.memory / GIB:.2f} of {target.chip.hbm / GIB:.2f} GiB"
        result = f"{attempt.seconds * 1e3:.1f} ms" if attempt.seconds else "does not fit"
        print(f"{batch_text(batch_size, mesh.size)}: {usage}, {result}", flush=True)
        return attempt.seconds is not None

    if not find_largest(fits):
        return resized(row_multiple)
    length = config.model.length
    fitting = sorted(attempt for attempt in attempts if attempt.seconds)
    fastest = max(fitting, key=lambda attempt: attempt.tokens_per_second(length))
    head = ("batch", "rows per chip", "accumulate", "GiB per chip", "step ms", "tokens/s")
    rows = [
        (
            f"{attempt.batch_size:,}",
            f"{attempt.batch_size / mesh.size:g}",
            str(config.optim.accumulate),
            f"{attempt.memory / GIB:.2f}",
            f"{(attempt.seconds or 0) * 1e3:.1f}",
            f"{attempt.tokens_per_second(length):,.0f}",
        )
        for attempt in fitting
    ]
    print(f"\n{markdown_table(head, rows)}\n\nfastest: {batch_text(fastest.batch_size, mesh.size)}\n", flush=True)
    return resized(fastest.batch_size)


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
