"""Documents of files of JSON objects."""

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

from symbert_jax.data.sources import decoding
from symbert_jax.data.sources.decoding import count_lines, find_boundary, is_divisible, read_chunks
from symbert_jax.errors import UserError

_MAX_OBJECT = 1 << 28  # characters of a JSON object; a longer one is an error
_LINE_END = re.compile(rb"\n")


class _Where(NamedTuple):
    """The place of an object, which errors name."""

    path: Path | epath.Path
    unit: str  # line, or item of an array
    number: int  # from 1
    start: int = 0  # the byte offset in the file of line 1

    def __str__(self) -> str:
        return f"{self.path}, {self.unit} {count_lines(self.path, self.start) + self.number}"


def read(path: Path | epath.Path, start: int = 0, end: int | None = None) -> Iterator[str]:
    """Yields the field `text` of every JSON object in a file: one object per line, or all in one array.

    start, end: byte offsets of a part of a file for which `can_divide` holds. The lines that begin in it are read.

    Raises:
      UserError: as `decode`; or a line or an item of the array is not a JSON object with a text; the error names it.
    """
    if end is not None:
        start, end = (find_boundary(path, offset, _LINE_END) for offset in (start, end))
    chunks = read_chunks(path, start, end)
    head = _read_head(chunks)
    is_array = start == 0 and head.lstrip().startswith("[")
    chunks = itertools.chain([head], chunks)
    for where, value in _parse_array(path, chunks) if is_array else _parse_lines(path, chunks, start):
        if not isinstance(value, dict) or not isinstance(value.get("text"), str):
            raise UserError("data.sources", f"{where}: {_describe(value)}", 'an object with the string "text"')
        try:
            value["text"].encode()  # an escape such as \ud800 can be half a surrogate pair, which UTF-8 cannot encode
        except UnicodeEncodeError as error:
            raise UserError("data.sources", f"{where}: {error.reason}", "Unicode text") from None
        yield value["text"]


def can_divide(path: Path | epath.Path) -> bool:
    """Whether `read` can read parts of a file: it is plain UTF-8 with one object per line."""
    return is_divisible(path) and not _read_head(read_chunks(path)).lstrip().startswith("[")


def _read_head(chunks: Iterator[str]) -> str:
    """Returns the first chunks of a file, up to one that is not blank."""
    head = ""
    for chunk in chunks:
        head += chunk
        if not head.isspace():
            break
    return head


def _parse_lines(path: Path | epath.Path, chunks: Iterable[str], start: int) -> Iterator[tuple[_Where, Any]]:
    """Yields its place, for errors, and the JSON value of every line that is not blank.

    start: the byte offset of the first line in the file.
    """
    number, pieces = 1, list[str]()
    for chunk in itertools.chain(chunks, ["\n"]):
        *ends, rest = chunk.split("\n")  # each of `ends` completes a line; `rest` begins one
        for end in ends:
            # A file made by joining files can have byte order marks at the start of lines.
            line, pieces = "".join((*pieces, end)).strip().lstrip("\ufeff"), []
            where = _Where(path, "line", number, start)
            if line:
                try:
                    yield where, json.loads(line)
                except (ValueError, RecursionError) as error:  # ValueError also for a number with thousands of digits
                    wanted = "one JSON object per line, or an array of objects"
                    raise UserError("data.sources", f"{where}: {error}", wanted) from None
            number += 1
        pieces.append(rest)
        _check_length(_Where(path, "line", number, start), sum(map(len, pieces)))


def _parse_array(path: Path | epath.Path, chunks: Iterable[str]) -> Iterator[tuple[_Where, Any]]:
    """Yields its place, for errors, and the value of every item of the JSON array in a file."""
    chunks, decoder, separator = iter(chunks), json.JSONDecoder(), re.compile(r"[\s,]*")
    text, start, number = next(chunks).lstrip()[1:], 0, 1  # the text after the opening bracket
    while True:
        where = _Where(path, "item", number)
        start = separator.match(text, start).end()  # type: ignore[union-attr]  # always a match, maybe empty
        if text.startswith("]", start):
            if any(rest.strip() for rest in itertools.chain([text[start + 1 :]], chunks)):
                raise UserError("data.sources", f"{path}: text after a JSON array", "one array")
            return
        try:
            value, end = decoder.raw_decode(text, start)
        except RecursionError as error:
            raise UserError("data.sources", f"{where}: {error}", "an array of JSON objects") from None
        except ValueError as error:  # the item may continue in the next chunk
            size = len(text) - start
            _check_length(where, size)
            # This doubles the text, so few attempts suffice.
            more = "".join(itertools.islice(chunks, 1 + size // decoding.CHUNK))
            if not more:
                reason = getattr(error, "msg", error)
                raise UserError("data.sources", f"{where}: {reason}", "an array of JSON objects") from None
            text, start = text[start:] + more, 0
            continue
        yield where, value
        number, start = number + 1, end


def _check_length(where: _Where, size: int) -> None:
    if size > _MAX_OBJECT:
        raise UserError("data.sources", f"{where}: more than {_MAX_OBJECT:,} characters", "shorter JSON objects")


def _describe(value: Any) -> str:
    """Describes, for errors, a JSON value that is not an object with a text."""
    if not isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)[:60]
    if "text" in value:
        return f'"text" is {json.dumps(value["text"], ensure_ascii=False)[:60]}'
    return f"an object with {', '.join(map(json.dumps, list(value)[:10])) or 'no field'}"
