"""Predicts the tokens behind each [MASK] of a text with a pretrained model."""

from typing import NamedTuple

import jax
import numpy as np
from etils import epath

from symbert_jax.checkpoint import load
from symbert_jax.config import MeshConfig
from symbert_jax.data import tokenizer
from symbert_jax.data.vocabulary import MASK
from symbert_jax.errors import UserError
from symbert_jax.model import bert
from symbert_jax.sharding import make_mesh


class Guess(NamedTuple):
    word: str
    probability: float


class Filler:
    """The model of a workdir and its vocabulary, on one device."""

    def __init__(self, workdir: epath.Path, step: int | None = None):
        """Raises `UserError` if `workdir` holds no such checkpoint, or no vocabulary that fits it."""
        self.params, config = load(workdir, step)
        self.model = config.model
        self.tokenizer = tokenizer.read_for_model(workdir, self.model.vocab_size).build(parse_special=True)

    def guesses(self, text: str, top: int) -> list[list[Guess]]:
        """For each [MASK] of `text` the `top` most probable words, the best first.

        Raises:
          UserError: the text has no [MASK], more tokens than the model reads, or half a surrogate pair, or `top` is
            below 1.
        """
        if top < 1:
            raise UserError("top", str(top), "at least 1")
        # Python decodes the bytes of an argument that are not UTF-8 to half a surrogate pair
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UserError("text", repr(text), "text in UTF-8")
        tokens = np.array(self.tokenizer.encode(text).ids)
        positions = np.flatnonzero(tokens == self.tokenizer.token_to_id(MASK))
        if not len(positions):
            hint = f"write {MASK} in capitals" if MASK.lower() in text.lower() else ""
            raise UserError("text", repr(text), f"at least one {MASK} in it", hint)
        if len(tokens) > self.model.length:
            raise UserError("text", f"{len(tokens)} tokens", f"at most {self.model.length}, the length of the model")
        with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
            run = jax.jit(bert.logits, static_argnums=0)
            logits = np.asarray(run(self.model, self.params, tokens[None], positions[None]))[0]
        probabilities = np.asarray(jax.nn.softmax(logits[:, : self.tokenizer.get_vocab_size()]))
        return [
            [Guess(str(self.tokenizer.id_to_token(int(word))), float(row[word])) for word in (-row).argsort()[:top]]
            for row in probabilities
        ]

    def describe(self, text: str, top: int) -> str:
        """The text, and below it a line for each [MASK]."""
        lines = ["  ".join(f"{word} {p:.1%}" for word, p in found) for found in self.guesses(text, top)]
        return "\n  ".join([text, *lines])
