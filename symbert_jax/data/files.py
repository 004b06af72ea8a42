"""Texts out of files, plain or gzip, with errors that say where a text is damaged."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

from symbert_jax.errors import UserError


def read_text(path: Path) -> str:
    """A whole file as one text.

    Raises:
      UserError: the file is damaged or not UTF-8 (names the byte).
    """
    content = b"".join(_lines(path))
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError("data.sources", f"{path}, line {line}: byte {error.start} is no UTF-8", "UTF-8") from error


def read_json_lines(path: Path) -> Iterator[str]:
    """The field `text` of every line that is not blank.

    Raises:
      UserError: a line is not UTF-8, not JSON or without text (names the line), or the file is damaged.
    """
    for number, line in enumerate(_lines(path), start=1):
        if line.isspace():
            continue
        here = f"{path}, line {number}"
        try:
            text = json.loads(line.decode())["text"]
            text.encode()  # JSON can escape half a surrogate pair, which is no text
        except (UnicodeDecodeError, UnicodeEncodeError) as error:
            raise UserError("data.sources", f"{here}: {error.reason}", "UTF-8") from error
        except json.JSONDecodeError as error:
            raise UserError("data.sources", f"{here}: {error}", "one JSON object a line") from error
        except (KeyError, TypeError, AttributeError) as error:
            found = f"{here}: {line[:60].decode(errors='replace').strip()}"
            raise UserError("data.sources", found, 'an object with the string "text"') from error
        yield text


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield from file
    except (OSError, EOFError, zlib.error) as error:
        raise UserError("data.sources", f"{path}: {error}", "a readable file") from error
