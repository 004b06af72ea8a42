"""A TPU slice to compile for."""

from collections.abc import Iterator

import jax
import pytest

from symbert_jax.estimate.slices import Slice, find_slice


@pytest.fixture(scope="module")
def target() -> Iterator[Slice]:
    """A slice of 4 chips to compile for. The compilation cache is off, as in the command `compile`."""
    jax.config.update("jax_enable_compilation_cache", False)
    yield find_slice("v5e:2x2")
    jax.config.update("jax_enable_compilation_cache", True)
