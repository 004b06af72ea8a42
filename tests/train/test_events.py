"""The speed of a log point counts the tokens that a run learns from."""

from types import SimpleNamespace

from symbert_jax.train.events import Events
from tests.conftest import TINY


def test_speed_does_not_count_padding(mesh) -> None:
    opened = SimpleNamespace(stream=SimpleNamespace(padding=0.25), phase=SimpleNamespace(config=TINY), flops=1)
    tokens, _, _ = Events._cost(SimpleNamespace(phase_of=lambda step: opened), step=1)
    assert tokens == 0.75 * TINY.data.batch_size * TINY.model.length
