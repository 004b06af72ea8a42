"""BERT's tokenizer, uncased or cased: WordPiece with the special tokens, the words and the normalizations of BERT."""

import dataclasses
import functools
import hashlib
import string
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from symbert_jax.data import vocabulary
from symbert_jax.data.tokenizer.text_tokenizer import PREFIX, Roles, TextTokenizer, special_token
from symbert_jax.data.vocabulary import CLS, MASK, PAD, SEP, SPECIAL, UNK

MAX_WORD_LENGTH = 100  # characters; a longer word becomes [UNK]


class Normalization(NamedTuple):
    """The preparation of a text before it is cut into tokens. The defaults are those of BERT's uncased models."""

    lowercase: bool = True
    strip_accents: bool = True  # equals `lowercase` unless the files of a tokenizer set it
    handle_chinese_chars: bool = True  # makes each Chinese character a word
    clean_text: bool = True  # removes control characters, replaces each white space character by a space


UNCASED = Normalization()

# Tables for `bytes.translate`: white space becomes blanks; and ASCII letters become lower case.
_BLANKS = bytes.maketrans(b"\t\n\r", b"   ")
_LOWER_BLANKS = _BLANKS.translate(bytes.maketrans(string.ascii_uppercase.encode(), string.ascii_lowercase.encode()))
_SEPARATED = [(mark.encode(), f" {mark} ".encode()) for mark in f"{string.punctuation}‘’“”–—…"]


@dataclasses.dataclass(frozen=True)
class WordPiece(TextTokenizer):
    """BERT's tokenizer, which a vocab.txt and a normalization determine."""

    tokens: tuple[str, ...]  # by id
    normalization: Normalization

    @functools.cached_property
    def roles(self) -> Roles:
        ids = {token: self.tokens.index(token) for token in SPECIAL}
        return Roles(ids[CLS], ids[SEP], ids[PAD], ids[MASK], ids[UNK])

    @functools.cached_property
    def is_special(self) -> Bool[np.ndarray, " V"]:
        return np.array([token in SPECIAL for token in self.tokens])

    @functools.cached_property
    def continues_word(self) -> Bool[np.ndarray, " V"]:
        return np.array([token.startswith(PREFIX) for token in self.tokens])

    def split_words(self, text: str) -> list[bytes]:
        """Returns parts of a text, in UTF-8, whose tokens, joined, are those of the text: mostly words and punctuation.

        White space separates words and has no tokens, and each punctuation mark is a word of its own. ASCII letters are
        made lower case if the tokenizer does so, so that fewer parts differ.
        """
        content = text.encode().translate(_LOWER_BLANKS if self.normalization.lowercase else _BLANKS)
        for mark, separated in _SEPARATED:
            content = content.replace(mark, separated)
        return content.split(b" ")

    def text(self, i: int) -> str:
        return self.tokens[i].removeprefix(PREFIX)

    def build(self, *, parse_special: bool) -> Tokenizer:
        ids = {token: i for i, token in enumerate(self.tokens)}
        tokenizer = Tokenizer(models.WordPiece(ids, unk_token=UNK, max_input_chars_per_word=MAX_WORD_LENGTH))
        tokenizer.normalizer = make_normalizer(self.normalization)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.post_processor = post_processors(ids[CLS], ids[SEP])[0]
        tokenizer.decoder = decoders.WordPiece(prefix=PREFIX)
        tokenizer.add_special_tokens([special_token(token) for token in SPECIAL])
        tokenizer.encode_special_tokens = not parse_special
        return tokenizer

    def fingerprint(self) -> str:
        """Returns a SHA-256 of the tokens and the normalization.

        If the normalization is UNCASED, it is the SHA-256 of the vocab.txt.
        """
        rest = "" if self.normalization == UNCASED else f"{self.normalization}"
        return hashlib.sha256(f"{vocabulary.to_text(self.tokens)}{rest}".encode()).hexdigest()


def make_normalizer(normalization: Normalization = UNCASED) -> normalizers.Normalizer:
    lowercase, strip_accents, handle_chinese_chars, clean_text = normalization
    return normalizers.BertNormalizer(
        clean_text=clean_text,
        handle_chinese_chars=handle_chinese_chars,
        strip_accents=None if strip_accents == lowercase else strip_accents,
        lowercase=lowercase,
    )


def tokens_with_capitals(tokens: Iterable[str]) -> list[str]:
    """Returns the tokens that no lower-cased text contains, except those in brackets, such as [MASK]."""
    lower = normalizers.Lowercase()  # the lower-casing of texts in encoding, for some letters not that of Python
    found = [token for token in tokens if token.lower() != token and not (token[0] == "[" and token[-1] == "]")]
    return [token for token in found if lower.normalize_str(token) != token]


def post_processors(cls: int, sep: int) -> tuple[processors.PostProcessor, ...]:
    """Returns the two forms in which a tokenizer.json can say that texts are framed as [CLS] A [SEP] B [SEP]."""
    return (
        processors.BertProcessing((SEP, sep), (CLS, cls)),
        processors.TemplateProcessing(
            single=f"{CLS} $A {SEP}", pair=f"{CLS} $A {SEP} $B:1 {SEP}:1", special_tokens=[(CLS, cls), (SEP, sep)]
        ),
    )
