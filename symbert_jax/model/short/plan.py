"""The sizes of the arrays on one device, and the blocks in which the kernels work."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jax.experimental import pallas as pl

LANES = 128  # the width of a register: lengths are multiples of it
LONGEST_BLOCK = 512  # queries
# Up to this length a grid step computes two heads, which leaves fewer instructions waiting for others: on a v5e, a head
# of 512 tokens with dropout takes 3,080 instead of 3,320 bundles.
LONGEST_PAIR = 1024


@dataclasses.dataclass(frozen=True)
class Plan:
    """The attention of one device: `rows` x `heads` heads, with queries [`query_width`, `length`]."""

    rows: int
    heads: int
    length: int
    device_cores: int
    query_width: int = 64
    value_width: int = 64
    dropout_rate: float = 0.0
    interpret: bool = False  # runs the kernels without a TPU, slowly

    @property
    def group(self) -> int:
        """The heads of a grid step, all of the same row."""
        return 2 if self.heads % 2 == 0 and self.length <= LONGEST_PAIR else 1

    @property
    def groups(self) -> int:
        """The groups of all rows."""
        return self.rows * self.heads // self.group

    @property
    def cores(self) -> int:
        """The cores that share the work: all of the device, or one if they do not divide it."""
        return self.device_cores if self.groups % self.device_cores == 0 else 1

    @property
    def steps(self) -> int:
        """The blocks of all groups of one core, each of which takes a grid step."""
        return self.groups * self.blocks // self.cores

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
        """Returns the row, the group in this row and the block of a grid step, given its number in this order."""
        group, block = divmod(number, self.blocks)
        return *divmod(group, self.heads // self.group), block

    def head_spec(self, size: int, number: Callable[..., Any], whole: bool = False) -> pl.BlockSpec:
        """Returns the part of an array [B, N, `size`, T] that a grid step takes.

        number: returns the number of the step, as for `locate`, given the indices of the grid.
        whole: whether the step takes all tokens of its heads, otherwise those of the block.
        """

        def index_map(*indices: Any) -> tuple[Any, ...]:
            row, group, block = self.locate(number(*indices))
            return row, group, 0, 0 if whole else block

        return pl.BlockSpec((None, self.group, size, self.length if whole else self.block), index_map)


def largest_divisor(length: int, limit: int) -> int:
    """Returns the largest multiple of LANES up to `limit` that divides `length`."""
    return max(size for size in range(LANES, limit + 1, LANES) if length % size == 0)
