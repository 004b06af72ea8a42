"""Finds which tokens continue a word, for every kind of tokenizer.

A token shows by its first characters whether it continues a word. Words begin at blanks, and in tokenizers that keep
blanks in their tokens also at punctuation marks and Chinese characters. Letters that follow a punctuation mark without
a blank count as part of its word.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Bool
from tokenizers import Tokenizer, decoders, models

BYTE_LEVEL, METASPACE = "\u0120", "\u2581"  # what blanks become in the tokens of GPT-2, and in those of SentencePiece


def find_blank(tokenizer: Tokenizer) -> str | None:
    """Returns what the tokenizer makes of the blank between two words: BYTE_LEVEL, METASPACE, or "" if it drops it.

    None: the blank remains, so that a token could have several words.
    """
    text = tokenizer.normalizer.normalize_str("a b") if tokenizer.normalizer else "a b"
    if tokenizer.pre_tokenizer:
        text = "".join(word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text))
    if " " in text:
        return None
    return next((blank for blank in (BYTE_LEVEL, METASPACE) if blank in text), "")


def find_continuing(tokenizer: Tokenizer, tokens: tuple[str, ...]) -> Bool[np.ndarray, " V"]:
    """Returns whether each of the tokens continues a word.

    tokenizer: one whose tokens show where words begin: a model with a `continuing_subword_prefix`, or one for which
      `find_blank` returns BYTE_LEVEL or METASPACE.
    """
    if not find_blank(tokenizer):
        return np.array([token.startswith(tokenizer.model.continuing_subword_prefix) for token in tokens])
    return np.array([_continues_word(text) for text in to_texts(tokenizer, tokens)])


def to_texts(tokenizer: Tokenizer, tokens: Iterable[str]) -> Iterator[str]:
    """Yields the text that each of the tokens stands for, with its blank if it has one.

    tokenizer: as in `find_continuing`.
    """
    blank, decoder = find_blank(tokenizer), decoders.ByteLevel()
    for token in tokens:
        if blank == BYTE_LEVEL:
            yield decoder.decode([token])
        elif blank == METASPACE:
            yield token.replace(METASPACE, " ")
        else:
            yield token.removeprefix(tokenizer.model.continuing_subword_prefix)


def shows_words(tokenizer: Tokenizer) -> bool:
    """Whether the tokens show where words begin."""
    model = tokenizer.model
    has_prefix = not isinstance(model, models.Unigram) and bool(model.continuing_subword_prefix)
    return bool(find_blank(tokenizer)) or (has_prefix and find_blank(tokenizer) is not None)


def _continues_word(text: str) -> bool:
    """Whether a token continues a word: it begins with a letter, a digit, a combining mark or a part of a character."""
    if not text:
        return False
    first = text[0]
    if first == "\ufffd" or re.fullmatch("<0x[0-9A-F]{2}>", text):  # bytes of a character
        return True
    is_chinese = unicodedata.name(first, "").startswith("CJK")
    return not is_chinese and (first.isalnum() or unicodedata.category(first).startswith("M"))
