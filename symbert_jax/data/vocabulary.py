"""A `vocab.txt`: one token a line, its line number is its id."""

from collections import Counter
from pathlib import Path

from etils import epath

from symbert_jax.errors import UserError

PAD, UNK, CLS, SEP, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def read(path: Path | epath.Path) -> list[str]:
    """The tokens of a vocabulary in the order of their ids.

    Raises:
      UserError: the file is missing, not UTF-8, holds a token twice or lacks a special one.
    """
    try:
        tokens = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except OSError as error:
        raise UserError("data.vocab", f"{path}: {error.strerror}", "a readable vocab.txt") from error
    except UnicodeDecodeError as error:
        raise UserError("data.vocab", f"{path}: byte {error.start} is not UTF-8", "a vocab.txt in UTF-8") from error
    if lacking := [token for token in SPECIAL if token not in tokens]:
        raise UserError("data.vocab", f"no {' '.join(lacking)} in {path}", f"one line each of {' '.join(SPECIAL)}")
    if twice := [f"{token!r}" for token, count in Counter(tokens).items() if count > 1]:
        raise UserError("data.vocab", f"{', '.join(twice[:3])} twice in {path}", "every token once")
    return tokens
