"""Where attempts leave the package's code: the network, other processes, and work that would take too long."""

import contextlib
from collections.abc import Iterator
from unittest import mock

import jax
import jax.numpy as jnp

from symbert_jax.config import ModelConfig


class Reached(Exception):
    """All that is tried of a command went well; the rest would take too long."""


def _end(*_: object, **__: object) -> None:
    raise Reached


def _logits(model: ModelConfig, params: object, tokens: jax.Array, positions: jax.Array, **_: object) -> jax.Array:
    return jnp.zeros((*positions.shape, model.vocab_size))


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """Replaces a few functions, in the modules that own them where possible."""
    with (
        mock.patch("huggingface_hub.constants.HF_HUB_OFFLINE", True),
        mock.patch("jax.distributed.initialize", side_effect=RuntimeError("no such process")),
        mock.patch(
            "symbert_jax.data.sources.python_docs.documents", lambda *, installed: iter(["the cat sat on the mat"])
        ),
        mock.patch("symbert_jax.model.bert.logits", _logits),  # each number of tokens would be a compilation
        mock.patch("symbert_jax.eval.finetune.Progress", _end),  # finetune: all is checked, training begins
        mock.patch("symbert_jax.interop.warm_start.convert", _end),
        mock.patch("symbert_jax.estimate.report.estimate", _end),
    ):
        yield
