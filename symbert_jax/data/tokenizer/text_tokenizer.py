"""What every tokenizer offers: its tokens, the roles of its special tokens, and its object of the library."""

import abc
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool
from tokenizers import AddedToken, Tokenizer

PREFIX = "##"  # begins a token of WordPiece that continues a word


class Roles(NamedTuple):
    """The ids of the special tokens, all of them different."""

    cls: int  # begins every row and every text
    sep: int  # ends every document and every text
    pad: int
    mask: int
    unk: int | None  # stands for what the tokenizer does not know; None if it knows all texts


class TextTokenizer(abc.ABC):
    """A tokenizer: everything that determines the ids of a text. Equal tokenizers give equal ids."""

    tokens: tuple[str, ...]  # by id

    @property
    @abc.abstractmethod
    def roles(self) -> Roles: ...

    @property
    @abc.abstractmethod
    def is_special(self) -> Bool[np.ndarray, " V"]:
        """Whether each token is special: no text of a corpus contains it, except [UNK], and it is never predicted."""

    @property
    @abc.abstractmethod
    def continues_word(self) -> Bool[np.ndarray, " V"]:
        """Whether each token continues the word of the token before it, unless that is special."""

    @abc.abstractmethod
    def build(self, *, parse_special: bool) -> Tokenizer:
        """Returns the tokenizer as an object of the library.

        parse_special: whether special tokens are recognised in a text, such as "[MASK]" in a prompt. If not, they are
          split like ordinary text, as in a corpus, where no text may forge the [SEP] that ends a document.
        """

    @abc.abstractmethod
    def text(self, i: int) -> str:
        """Returns the text that token `i` stands for, with its blank if it has one."""

    def readable(self, i: int) -> str:
        """Returns token `i` for people: its text, after ## if it continues a word."""
        text = self.text(i).strip()
        if not text or self.is_special[i]:
            return self.tokens[i]
        return f"{PREFIX}{text}" if self.continues_word[i] else text

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Returns a SHA-256 of the tokenizer."""

    @property
    def cls_id(self) -> int:
        return self.roles.cls

    @property
    def sep_id(self) -> int:
        return self.roles.sep

    @property
    def pad_id(self) -> int:
        return self.roles.pad

    @property
    def mask_id(self) -> int:
        return self.roles.mask

    @property
    def unk_id(self) -> int | None:
        return self.roles.unk


def special_token(token: str) -> AddedToken:
    return AddedToken(token, special=True, normalized=False)
