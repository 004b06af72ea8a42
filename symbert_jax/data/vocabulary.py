"""A `vocab.txt`: one token on each line; the id of a token is the number of its line, from 0."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from etils import epath

from symbert_jax.errors import UserError
from symbert_jax.storage import read_text

VOCAB = "vocab.txt"
PAD, UNK, CLS, SEP, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LIMIT = 1 << 22  # ids must be smaller, so that no damaged file makes a vocabulary that exceeds memory


def read(path: Path | epath.Path, field: str = "data.vocab") -> list[str]:
    """Returns the tokens of a vocab.txt in the order of their ids.

    Lines may end as on Unix, Windows or old Macs. Empty lines at the end are ignored. For any other empty line, the
    result has a token that the tokenizer finds in no text.

    field: names the vocabulary in errors.

    Raises:
      UserError: the file cannot be read or is not UTF-8, a token occurs twice or contains white space, or a special
        token is missing.
    """
    lines = read_text(path, field).replace("\r\n", "\n").replace("\r", "\n").rstrip("\n").split("\n")
    tokens = [line or _unused_token(i) for i, line in enumerate(lines)]
    if blank := [token for token in tokens if has_white_space(token)]:
        raise UserError(field, f"a token {blank[0]!r} in {path}", "tokens without white space")
    if missing := [token for token in SPECIAL if token not in tokens]:
        raise UserError(field, f"no {' '.join(missing)} in {path}", f"all of {' '.join(SPECIAL)}")
    if repeated := [f"{token!r}" for token, count in Counter(tokens).items() if count > 1]:
        raise UserError(field, f"{', '.join(repeated[:3])} more than once in {path}", "every token once")
    return tokens


def from_ids(ids: Mapping[str, int], path: Path | epath.Path, field: str) -> list[str]:
    """Returns the tokens in the order of their ids. An id without a token gets one that is found in no text.

    path, field: name the vocabulary in errors.

    Raises:
      UserError: an id is too large or has two tokens.
    """
    tokens: dict[int, str] = {}
    for token, i in ids.items():
        if i >= LIMIT:
            raise UserError(field, f"id {i} of {token!r} in {path}", f"ids below {LIMIT}")
        if i in tokens:
            raise UserError(field, f"id {i} for {tokens[i]!r} and {token!r} in {path}", "a different id for each token")
        tokens[i] = token
    return [tokens.get(i) or _unused_token(i) for i in range(max(tokens, default=-1) + 1)]


def to_text(tokens: Sequence[str]) -> str:
    """Returns the content of a vocab.txt."""
    return "".join(f"{token}\n" for token in tokens)


def has_white_space(token: str) -> bool:
    """Whether a vocab.txt cannot hold the token."""
    return any(character in token for character in " \t\n\r")


def _unused_token(i: int) -> str:
    """Returns a token for an id that has none. The tokenizer splits texts at brackets, so never finds this token."""
    return f"[unused-hole-{i}]"
