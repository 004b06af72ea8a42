"""TPU slices by name, without any TPU."""

import importlib.metadata

import jax
import pytest

from symbert_jax.errors import UserError
from symbert_jax.estimate.slices import find_slice


@pytest.mark.parametrize("topology", ["v5e", "v5e:4x4x4", "v3:2x2", "v5p:2x2", "v5e:3x3", "nonsense", ""])
def test_find_slice_refuses_unknown_topologies(topology: str) -> None:
    with pytest.raises(UserError, match=rf"topology: found '{topology}', wanted .*v5e:XxY, v5p:XxYxZ"):
        find_slice(topology)


@pytest.mark.parametrize(("topology", "chips"), [("v4:2x2x2", 8), ("v5p:2x2x1", 4), ("v6e:1x1", 1), ("v5e:16x16", 256)])
def test_find_slice_has_one_device_per_chip(topology: str, chips: int) -> None:
    assert len(find_slice(topology).devices) == chips


def test_find_slice_without_libtpu_says_how_to_install_it(monkeypatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(UserError, match=rf'pip install "jax\[tpu\]=={jax.__version__}"'):
        find_slice.__wrapped__("v5e:2x2")  # without its cache
