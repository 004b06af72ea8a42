"""The sizes of the arrays on one device, and the blocks in which the kernels work."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.experimental import pallas as pl

LANES = 128  # the width of a register: lengths are multiples of it
LONGEST_BLOCK = 512  # queries
LONGEST_LOCAL_BLOCK = 256  # queries in a local layer: of larger blocks, fewer keys are outside every window
# Up to this length a grid step computes two heads, which leaves fewer instructions waiting for others: on a v5e, a head
# of 512 tokens with dropout takes 3,080 instead of 3,320 bundles.
LONGEST_PAIR = 1024
# The tokens of the shortest row of the symmetric form. With 512 tokens on a v5e, about half of what its kernels save is
# spent on the check for exponentials that underflow.
SHORTEST_SYMMETRIC = 1024
LONGEST_SYMMETRIC_BLOCK = 1024
LONGEST_GROUP = 2048  # the tokens of all heads of a grid step in the symmetric form


class Keys(NamedTuple):
    """Some keys of a head, and where their scores are among those of a block."""

    tokens: Any  # a slice of the row
    first: Any  # the position of the first, a multiple of LANES
    scores: slice


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
    window: int = 0  # of `windows`
    interpret: bool = False  # runs the kernels without a TPU, slowly

    def with_window(self, window: int) -> "Plan":
        """Returns the plan of a layer with this window; one that is as long as the row is none."""
        return dataclasses.replace(self, window=window if window // 2 < self.length - 1 else 0)

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
        return largest_divisor(self.length, LONGEST_LOCAL_BLOCK if self.window else LONGEST_BLOCK)

    @property
    def blocks(self) -> int:
        """The blocks of a head."""
        return self.length // self.block

    @property
    def margin(self) -> int:
        """The keys on each side of a block that the windows of its queries may reach, a multiple of LANES."""
        return -(-(self.window // 2) // LANES) * LANES

    @property
    def num_keys(self) -> int:
        """The keys of a block: all keys of the row, or those that the windows of the block may reach."""
        return min(self.block + 2 * self.margin, self.length) if self.window else self.length

    @property
    def has_symmetric_form(self) -> bool:
        """Whether the symmetric form is possible and faster, for keys that are the queries."""
        is_aligned = self.query_width % 16 == 0 and self.value_width % 16 == 0
        return is_aligned and self.length >= SHORTEST_SYMMETRIC and not self.window and not self.dropout_rate

    @property
    def symmetric_block(self) -> int:
        """The tokens of a block of the symmetric form."""
        return largest_divisor(self.length, LONGEST_SYMMETRIC_BLOCK)

    @property
    def symmetric_blocks(self) -> int:
        """The blocks of a head in the symmetric form."""
        return self.length // self.symmetric_block

    @property
    def symmetric_pairs(self) -> int:
        """The pairs of blocks in the symmetric form, each of which takes a grid step."""
        return self.symmetric_blocks * (self.symmetric_blocks + 1) // 2

    @property
    def symmetric_group(self) -> int:
        """The heads of a grid step in the symmetric form, all of the same row."""
        return 2 if self.heads % 2 == 0 and 2 * self.length <= LONGEST_GROUP else 1

    @property
    def symmetric_groups(self) -> int:
        """The groups of all rows in the symmetric form."""
        return self.rows * self.heads // self.symmetric_group

    def chunks(self, longest: int, *blocks: Any) -> list[tuple[Keys, ...]]:
        """Returns the keys of each of some blocks in chunks of equal length, at most `longest`.

        blocks: the indices of the blocks.
        """
        size = largest_divisor(self.num_keys, longest)
        starts = [self._first_key(block) for block in blocks]
        return [
            tuple(Keys(pl.ds(start + offset, size), start + offset, slice(offset, offset + size)) for start in starts)
            for offset in range(0, self.num_keys, size)
        ]

    def _first_key(self, block: Any) -> Any:
        if self.num_keys == self.length:
            return 0
        return pl.multiple_of(jnp.clip(block * self.block - self.margin, 0, self.length - self.num_keys), LANES)

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
