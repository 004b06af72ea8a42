"""TPU slices, of which libtpu knows without a TPU."""

import importlib.metadata

import jax
import pytest

from symbert_jax.errors import UserError
from symbert_jax.estimate.slices import find_slice


@pytest.mark.parametrize("topology", ["v5e", "v5e:4x4x4", "v3:2x2", "v5p:2x2", "v5e:3x3", "nonsense", ""])
def test_an_unknown_slice_is_named_with_the_known_forms(topology: str) -> None:
    with pytest.raises(UserError, match=rf"topology: found '{topology}', wanted .*v5e:XxY, v5p:XxYxZ"):
        find_slice(topology)


@pytest.mark.parametrize(("topology", "chips"), [("v4:2x2x2", 8), ("v5p:2x2x1", 4), ("v6e:1x1", 1), ("v5e:16x16", 256)])
def test_a_chip_is_one_device(topology: str, chips: int) -> None:
    assert len(find_slice(topology).devices) == chips


def test_without_the_compiler_the_way_to_it_is_told(monkeypatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(UserError, match=rf'pip install "jax\[tpu\]=={jax.__version__}"'):
        find_slice("v5e:2x2")
