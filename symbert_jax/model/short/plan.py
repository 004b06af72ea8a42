"""The sizes of the arrays on one device, and the blocks in which the kernels work."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jax.experimental import pallas as pl

LANES = 128  # the width of a register: lengths are multiples of it
LONGEST_BLOCK = 512  # queries


@dataclasses.dataclass(frozen=True)
class Plan:
    """The attention of one device: `rows` x `heads` heads, with queries [`query_width`, `length`]."""

    rows: int
    heads: int
    query_width: int
    value_width: int
    length: int
    cores: int  # of the device
    dropout_rate: float
    interpret: bool  # runs the kernels without a TPU, slowly

    @property
    def scale(self) -> float:
        """The factor of the products of queries and keys."""
        return self.query_width**-0.5

    @property
    def block(self) -> int:
        """The queries of a block. A grid step computes the attention of one block to all keys."""
        return largest_divisor(self.length, LONGEST_BLOCK)

    @property
    def blocks(self) -> int:
        """The blocks of a head."""
        return self.length // self.block

    def chunks(self, longest: int) -> list[slice]:
        """Returns the keys in chunks of equal length, at most `longest`."""
        size = largest_divisor(self.length, longest)
        return [slice(start, start + size) for start in range(0, self.length, size)]

    def locate(self, number: Any) -> tuple[Any, Any, Any]:
        """Returns the row, the head and the index in its head of a block, given its number among those of all heads."""
        head, block = divmod(number, self.blocks)
        return *divmod(head, self.heads), block

    def head_spec(self, size: int, number: Callable[..., Any], whole: bool = False) -> pl.BlockSpec:
        """Returns the part of an array [B, N, `size`, T] that a grid step takes.

        number: returns the number of the block, as for `locate`, given the indices of the grid.
        whole: whether the step takes all tokens of the head, otherwise those of the block.
        """

        def index_map(*indices: Any) -> tuple[Any, ...]:
            row, head, block = self.locate(number(*indices))
            return row, head, 0, 0 if whole else block

        return pl.BlockSpec((None, None, size, self.length if whole else self.block), index_map)


def largest_divisor(length: int, limit: int) -> int:
    """Returns the largest multiple of LANES up to `limit` that divides `length`."""
    return max(size for size in range(LANES, limit + 1, LANES) if length % size == 0)
