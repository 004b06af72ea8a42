"""What a pretrained model expects where a sentence says [MASK]."""

from typing import NamedTuple

import jax
import numpy as np
from etils import epath

from symbert_jax.checkpoint import load
from symbert_jax.config import Mesh
from symbert_jax.data import tokenizer
from symbert_jax.data.rows import VOCAB
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
        """Raises `UserError` where `workdir` holds no such checkpoint, or no vocabulary that fits it."""
        self.params, config = load(workdir, step)
        self.model = config.model
        self.tokenizer = tokenizer.load(workdir / VOCAB, parse_special=True)
        if (count := self.tokenizer.get_vocab_size()) > self.model.vocab_size:
            wanted = f"at most {self.model.vocab_size}, as many as its model has"
            raise UserError("checkpoint", f"{count} tokens in {workdir / VOCAB}", wanted)

    def guesses(self, text: str, top: int) -> list[list[Guess]]:
        """For each [MASK] of `text` the `top` most probable words, the best first.

        Raises:
          UserError: no [MASK] in the text, more tokens than the model reads, or no Unicode; or `top` is below 1.
        """
        if top < 1:
            raise UserError("top", str(top), "at least 1")
        # as Python reads an argument that is not UTF-8
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UserError("text", repr(text), "text in UTF-8")
        tokens = np.array(self.tokenizer.encode(text).ids)
        positions = np.flatnonzero(tokens == self.tokenizer.token_to_id(MASK))
        if not len(positions):
            hint = f"write {MASK} in capitals" if MASK.lower() in text.lower() else ""
            raise UserError("text", repr(text), f"at least one {MASK} in it", hint)
        if len(tokens) > self.model.length:
            raise UserError("text", f"{len(tokens)} tokens", f"at most {self.model.length}, the length of the model")
        with jax.set_mesh(make_mesh(Mesh(), jax.devices()[:1])):
            run = jax.jit(bert.logits, static_argnums=0)
            logits = np.asarray(run(self.model, self.params, tokens[None], positions[None]))[0]
        probabilities = np.asarray(jax.nn.softmax(logits[:, : self.tokenizer.get_vocab_size()]))
        return [
            [Guess(str(self.tokenizer.id_to_token(int(word))), float(place[word])) for word in (-place).argsort()[:top]]
            for place in probabilities
        ]

    def describe(self, text: str, top: int) -> str:
        """The text, and a line a [MASK]."""
        lines = ["  ".join(f"{word} {p:.1%}" for word, p in place) for place in self.guesses(text, top)]
        return "\n  ".join([text, *lines])
