"""Any tokenizer that a tokenizer.json describes: byte-level BPE, Unigram, and WordPiece other than BERT's."""

import dataclasses
import functools
import hashlib
import json
from typing import Any

import numpy as np
from jaxtyping import Bool
from tokenizers import Tokenizer

from symbert_jax.data.tokenizer.text_tokenizer import Roles, TextTokenizer
from symbert_jax.data.tokenizer.words import find_continuing, to_texts


@dataclasses.dataclass(frozen=True)
class JsonTokenizer(TextTokenizer):
    """A tokenizer as the library stores it."""

    tokens: tuple[str, ...]  # by id
    special: Roles
    definition: str  # the content of a tokenizer.json without truncation and padding, as JSON

    @property
    def roles(self) -> Roles:
        return self.special

    @functools.cached_property
    def is_special(self) -> Bool[np.ndarray, " V"]:
        is_special = np.zeros(len(self.tokens), bool)
        is_special[[token["id"] for token in json.loads(self.definition)["added_tokens"] if token["special"]]] = True
        is_special[[i for i in self.roles if i is not None]] = True
        return is_special

    @functools.cached_property
    def continues_word(self) -> Bool[np.ndarray, " V"]:
        return find_continuing(self._library, self.tokens) & ~self.is_special

    def text(self, i: int) -> str:
        return next(to_texts(self._library, [self.tokens[i]]))

    @functools.cached_property
    def _library(self) -> Tokenizer:
        return self.build(parse_special=True)

    def build(self, *, parse_special: bool) -> Tokenizer:
        if parse_special:
            return Tokenizer.from_str(self.definition)
        tokenizer = Tokenizer.from_str(json.dumps(hide_special(json.loads(self.definition))))
        tokenizer.encode_special_tokens = True
        return tokenizer

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.definition}{self.roles}".encode()).hexdigest()


def hide_special(definition: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of a tokenizer.json whose special tokens keep their ids but are found in no text.

    Without this, Unigram finds "</s>" in a text although the library treats special tokens as ordinary text: they are
    pieces of the model, too. So their spelling gets a blank, which no word has (see `words.find_blank`).
    """
    added = definition["added_tokens"]
    special = {token["content"] for token in added if token["special"]}
    model = dict(definition["model"])
    if isinstance(model["vocab"], dict):
        model["vocab"] = {f" {token}" if token in special else token: i for token, i in model["vocab"].items()}
    else:  # of Unigram
        model["vocab"] = [[f" {piece[0]}", piece[1]] if piece[0] in special else piece for piece in model["vocab"]]
    if model.get("unk_token") is not None:
        model["unk_token"] = _hide(model["unk_token"], special)
    added = [{**token, "content": _hide(token["content"], special)} for token in added]
    return {**definition, "model": model, "added_tokens": added}


def _hide(token: str, special: set[str]) -> str:
    return f" {token}" if token in special else token
