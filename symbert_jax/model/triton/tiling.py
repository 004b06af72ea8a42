"""The sizes of the tiles of the kernels."""

import dataclasses
import math

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Tile:
    """The numbers of queries and of keys in a tile, of the warps of a program and of the stages of its pipeline."""

    queries: int
    keys: int
    warps: int = 4
    stages: int = 3

    def fit(self, length: int) -> "Tile":
        """Returns the largest tile, at most this one, that divides a row of `length` tokens."""
        return dataclasses.replace(self, queries=math.gcd(self.queries, length), keys=math.gcd(self.keys, length))


@dataclasses.dataclass(frozen=True)
class Tiling:
    """The tiles of the three kernels."""

    forward: Tile
    keys: Tile  # of the gradients of keys and values
    queries: Tile  # of the gradient of the queries


# Tiles by the largest number of bytes in the vector of a token. They fit in the registers of an H100 and in 99 KB of
# shared memory, as in a GeForce RTX 30. Most of the work are instructions for single probabilities. So the tiles are
# small: two or three programs share a multiprocessor, and one computes while another waits for its matrix product.
TILINGS = {
    128: Tiling(Tile(64, 64), keys=Tile(64, 64), queries=Tile(64, 64)),
    256: Tiling(Tile(64, 32), keys=Tile(queries=32, keys=64), queries=Tile(64, 32)),
    512: Tiling(*[Tile(32, 32, stages=2)] * 3),
}


def choose_tiling(width: int, dtype: jnp.dtype) -> Tiling:
    """Returns tiles for heads of this width, at most 128."""
    return TILINGS[min(size for size in TILINGS if width * dtype.itemsize <= size)]
