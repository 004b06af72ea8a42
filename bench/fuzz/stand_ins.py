"""Stand-ins for code that attempts do not run: the network, other processes, and work that takes too long."""

import contextlib
from collections.abc import Iterator
from unittest import mock

import jax
import jax.numpy as jnp

from symbert_jax.config import ModelConfig


class WorkSkipped(Exception):
    """The checks of a command passed; its work, which takes too long, does not run."""


def _skip_work(*_: object, **__: object) -> None:
    raise WorkSkipped


def _logits(model: ModelConfig, params: object, tokens: jax.Array, positions: jax.Array, **_: object) -> jax.Array:
    return jnp.zeros((*positions.shape, model.vocab_size))


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """Replaces a few functions and a constant: where they are defined, or in modules that import them by name."""
    with (
        mock.patch("huggingface_hub.constants.HF_HUB_OFFLINE", True),
        mock.patch("jax.distributed.initialize", side_effect=RuntimeError("no such process")),
        mock.patch(
            "symbert_jax.data.sources.python_docs.documents", lambda packages=None: iter(["the cat sat on the mat"])
        ),
        mock.patch("symbert_jax.model.bert.logits", _logits),  # it would compile a program for each number of tokens
        mock.patch("symbert_jax.eval.finetune.Progress", _skip_work),  # `finetune` creates it just before it trains
        mock.patch("symbert_jax.interop.warm_start.convert", _skip_work),
        mock.patch("symbert_jax.estimate.report.summarize", _skip_work),
    ):
        yield
