"""The table of accelerators."""

import pytest

from symbert_jax.chips import KINDS, TPUS, peak_flops


def test_peak_flops_is_none_for_unknown_devices() -> None:
    assert peak_flops("cpu") is None
    assert peak_flops("TPU v5 lite") == 197e12
    assert peak_flops("NVIDIA H200") == 989e12


def test_every_device_kind_is_a_known_chip() -> None:
    assert set(KINDS.values()) == set(TPUS)


@pytest.mark.parametrize(
    ("chip", "topology", "links"),
    [("v5e", (4, 4), 2), ("v5e", (1, 1), 0), ("v5e", (8, 16), 3), ("v5e", (16, 16), 4), ("v5p", (2, 2, 4), 4)],
)
def test_ring_axis_has_two_links_a_chip(chip: str, topology: tuple[int, ...], links: int) -> None:
    """links: of one chip, along all axes. An axis of one chip has none, a longer one has one, a ring has two."""
    assert TPUS[chip].network(topology) == links * TPUS[chip].link
