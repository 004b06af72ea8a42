"""A `vocab.txt`: one token on each line; the line number, from 0, is its id."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from etils import epath

from symbert_jax.errors import UserError
from symbert_jax.storage import read_text

VOCAB = "vocab.txt"
PAD, UNK, CLS, SEP, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LIMIT = 1 << 16  # ids are stored as uint16


def read(path: Path | epath.Path, field: str = "data.vocab") -> list[str]:
    """The tokens of a vocabulary in the order of their ids.

    Lines end as on Unix, Windows or old Macs; empty lines at the end are no tokens.

    field: names the vocabulary in errors.

    Raises:
      UserError: the file cannot be read, is not UTF-8, or its tokens cannot be used (see `from_ids`).
    """
    lines = read_text(path, field).replace("\r\n", "\n").replace("\r", "\n").rstrip("\n").split("\n")
    return _checked([line or _unused(i) for i, line in enumerate(lines)], path, field)


def from_ids(ids: Mapping[str, int], where: Path | epath.Path, field: str) -> list[str]:
    """The tokens in the order of their ids. An id without a token gets one that no text contains.

    where, field: name the vocabulary in errors.

    Raises:
      UserError: an id is too large or has two tokens, a token occurs twice or contains a blank, or a special token is
        missing.
    """
    tokens: dict[int, str] = {}
    for token, i in ids.items():
        if i >= LIMIT:
            raise UserError(field, f"id {i} of {token!r} in {where}", f"ids below {LIMIT}, which rows can store")
        if i in tokens:
            raise UserError(field, f"id {i} for {tokens[i]!r} and {token!r} in {where}", "an id for each token")
        tokens[i] = token
    return _checked([tokens.get(i) or _unused(i) for i in range(max(tokens, default=-1) + 1)], where, field)


def to_text(tokens: Sequence[str]) -> str:
    """The content of a vocab.txt."""
    return "".join(f"{token}\n" for token in tokens)


def _checked(tokens: list[str], where: Path | epath.Path, field: str) -> list[str]:
    if blank := [token for token in tokens if " " in token or "\t" in token or "\n" in token or "\r" in token]:
        raise UserError(field, f"a token {blank[0]!r} in {where}", "tokens without blanks, and nothing else on a line")
    if lacking := [token for token in SPECIAL if token not in tokens]:
        raise UserError(field, f"no {' '.join(lacking)} in {where}", f"one line each of {' '.join(SPECIAL)}")
    if twice := [f"{token!r}" for token, count in Counter(tokens).items() if count > 1]:
        raise UserError(field, f"{', '.join(twice[:3])} twice in {where}", "every token once")
    return tokens


def _unused(i: int) -> str:
    """A token for an id that has none. Texts are split at its brackets, so no text contains it."""
    return f"[unused-hole-{i}]"
