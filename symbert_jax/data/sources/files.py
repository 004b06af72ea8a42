"""Texts from files, plain or compressed, in any Unicode encoding; errors give the position where a text is damaged.

The format of a file is recognised by its first bytes, not by its name. Memory does not grow with the size of a file.
"""

import bz2
import codecs
import gzip
import io
import itertools
import json
import lzma
import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from etils import epath

from symbert_jax.errors import UserError
from symbert_jax.storage import BINARY, LFS_POINTER, check_format

MAX_DOCUMENT = 1 << 22  # characters; a longer document is cut into several, see `read_text`
MAX_PART = 1 << 16  # characters of each part of a longer file that is not in the layout of BERT's data

_CHUNK = 1 << 20  # bytes decoded at a time
_MAX_OBJECT = 1 << 28  # characters of a JSON object; a longer one is an error
_READABLE = "UTF-8 text or JSON lines, plain or as .gz, .bz2 or .xz"
_BLANK = re.compile(r"\n(?:[^\S\n]*\n)+")  # a line end and the blank lines after it, such as "\n \n"
_COMPRESSED = (  # the first bytes of gzip, of bzip2 with its first block or its end, and of xz
    (re.compile(rb"\x1f\x8b"), gzip.open),
    (re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"), bz2.open),
    (re.compile(rb"\xfd7zXZ\0"), lzma.open),
)
_MARKS = (  # byte order marks; UTF-32-LE's begins with UTF-16-LE's, so it comes first
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (codecs.BOM_UTF8, "utf-8"),
)


def find_files(directory: Path, endings: tuple[str, ...]) -> list[Path]:
    """Returns the files below a directory with one of these name endings, in any case, compressed or not.

    Raises:
      UserError: there is no such file.
    """
    # Zstandard is not supported: reading a .zst file raises an error that tells how to unpack it.
    names = tuple(ending + packed for ending in endings for packed in ("", ".gz", ".bz2", ".xz", ".zst"))
    found = [path for path in directory.rglob("*") if path.name.lower().endswith(names) and path.is_file()]
    if not found:
        wanted = f"files named *{' or *'.join(endings)}, plain or as .gz, .bz2 or .xz"
        raise UserError("data.sources", f"no such file below {directory}", wanted)
    return sorted(found)


def read_text(path: Path) -> Iterator[str]:
    """Yields the documents of a text file.

    In the layout of BERT's own data, one sentence per line, blank lines divide the documents, and a document of more
    than MAX_DOCUMENT characters is cut. Any other file is one document, unless it has more than MAX_DOCUMENT
    characters: then it is cut into parts of at most MAX_PART, at a blank line in the second half of a part if there is
    one, else at a line end, else at a space, else anywhere. The layout is recognised by the first MAX_DOCUMENT
    characters or a few more.

    Raises:
      UserError: the file is damaged, not text, or not in a Unicode encoding; the error names the line and byte.
    """
    chunks, head, size = _chunks(path), [], 0
    for chunk in chunks:
        head.append(chunk)
        if (size := size + len(chunk)) > MAX_DOCUMENT:
            break
    start = "".join(head)
    if _has_bert_layout(start):
        yield from _divide(itertools.chain([start], chunks), 0, MAX_DOCUMENT)
    elif size > MAX_DOCUMENT:
        yield from _divide(itertools.chain([start], chunks), MAX_PART // 2, MAX_PART)
    else:
        yield start


def read_json(path: Path) -> Iterator[str]:
    """Yields the field `text` of every JSON object in a file: one object per line, or all in one array.

    Raises:
      UserError: the file is damaged or not text, or an item is not a JSON object with a text; the error names the
        line or item.
    """
    chunks, start = _chunks(path), ""
    for chunk in chunks:
        start += chunk
        if not start.isspace():
            break
    is_array = start.lstrip().startswith("[")
    values = (_parse_array if is_array else _parse_lines)(path, itertools.chain([start], chunks))
    for where, value in values:
        if not isinstance(value, dict) or not isinstance(value.get("text"), str):
            raise UserError("data.sources", f"{where}: {_describe(value)}", 'an object with the string "text"')
        try:
            value["text"].encode()  # an escape such as \ud800 can be half a surrogate pair, which UTF-8 cannot encode
        except UnicodeEncodeError as error:
            raise UserError("data.sources", f"{where}: {error.reason}", "Unicode text") from None
        yield value["text"]


def _has_bert_layout(text: str) -> bool:
    """Whether blank lines divide blocks of several lines, and most lines within a block end as sentences do.

    In prose with line breaks, about a fifth of the lines within paragraphs end in punctuation, far below the limit of
    three quarters. The last line of a block does not count: it ends as a sentence in either case.
    """
    blocks = [block.split("\n") for block in _BLANK.split(text.strip())]
    inner = [line.rstrip() for block in blocks for line in block[:-1]]
    sentences = sum(unicodedata.category(line[-1]).startswith("P") for line in inner if line)
    return len(inner) >= len(blocks) > 1 and sentences >= 0.75 * len(inner)


def _divide(chunks: Iterable[str], shortest: int, longest: int) -> Iterator[str]:
    """Yields the parts of a text, each cut at the first blank line after `shortest` and before `longest` characters.

    If there is no blank line between these lengths, the cut is at the last line end between them, else at the last
    space, else at `longest`.
    """
    text = ""
    for chunk in chunks:
        text, start = text + chunk, 0
        while (blank := _BLANK.search(text, start + shortest, start + longest)) or len(text) - start > longest:
            window = start + shortest, start + longest
            line, space = text.rfind("\n", *window), text.rfind(" ", *window)
            end = blank.end() if blank else line + 1 or space + 1 or start + longest
            yield text[start:end].strip()
            start = end
        text = text[start:]
    yield text.strip()


def _parse_lines(path: Path, chunks: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Yields, for every line that is not blank, its position for errors and its JSON value."""
    number, pieces = 1, list[str]()
    for chunk in itertools.chain(chunks, ["\n"]):
        *ends, rest = chunk.split("\n")  # each of `ends` completes a line
        for end in ends:
            # A file made by joining files can have byte order marks at the start of lines.
            line, pieces = "".join((*pieces, end)).strip().lstrip("\ufeff"), []
            where = f"{path}, line {number}"
            if line:
                try:
                    yield where, json.loads(line)
                except (ValueError, RecursionError) as error:  # ValueError also for a number with thousands of digits
                    wanted = "one JSON object per line, or an array of objects"
                    raise UserError("data.sources", f"{where}: {error}", wanted) from None
            number += 1
        pieces.append(rest)
        _check_length(f"{path}, line {number}", sum(map(len, pieces)))


def _parse_array(path: Path, chunks: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Yields, for every item of the JSON array in a file, its position for errors and its value."""
    chunks, decoder, separator = iter(chunks), json.JSONDecoder(), re.compile(r"[\s,]*")
    text, start, number = next(chunks).lstrip()[1:], 0, 1
    while True:
        where = f"{path}, item {number}"
        start = separator.match(text, start).end()  # type: ignore[union-attr]  # it also matches an empty string
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
            more = "".join(itertools.islice(chunks, 1 + size // _CHUNK))  # doubles the text, so few attempts suffice
            if not more:
                reason = getattr(error, "msg", error)
                raise UserError("data.sources", f"{where}: {reason}", "an array of JSON objects") from None
            text, start = text[start:] + more, 0
            continue
        yield where, value
        number, start = number + 1, end


def _check_length(where: str, size: int) -> None:
    if size > _MAX_OBJECT:
        raise UserError("data.sources", f"{where}: more than {_MAX_OBJECT:,} characters", "shorter JSON objects")


def _describe(value: Any) -> str:
    """Describes a JSON value without a text, for errors."""
    if not isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)[:60]
    if "text" in value:
        return f'"text" is {json.dumps(value["text"], ensure_ascii=False)[:60]}'
    return f"an object with {', '.join(map(json.dumps, list(value)[:10])) or 'no field'}"


def _chunks(path: Path) -> Iterator[str]:
    """Yields the decoded text of a source file; see `decode`."""
    return decode(path, "data.sources", _READABLE)


def decode(path: Path | epath.Path, field: str, wanted: str) -> Iterator[str]:
    """Yields the text of a file, decompressed and decoded, without a byte order mark, in chunks of any size.

    field, wanted: parts of errors, as in `UserError`.

    Raises:
      UserError: the file is damaged, not text, or not in a Unicode encoding; the error names the line and byte.
    """
    try:
        with path.open("rb") as raw, _open_decompressed(raw) as file:
            content = file.read(_CHUNK)
            mark, encoding = _detect_encoding(content, path, field, wanted)
            decoder, line, end = codecs.getincrementaldecoder(encoding)(), 1, len(content)
            content = content.removeprefix(mark)
            while True:
                try:
                    text = decoder.decode(content, final=not content)
                except UnicodeDecodeError as error:
                    line += error.object[: error.start].decode(encoding).count("\n")
                    byte = end - len(error.object) + error.start
                    found = f"{path}, line {line}: byte {byte} is not {encoding.upper()}"
                    hint = "convert another encoding: iconv -f LATIN1 -t UTF-8 FILE"
                    raise UserError(field, found, wanted, hint) from None
                if text:
                    yield text
                if not content:
                    return
                line += text.count("\n")
                content = file.read(_CHUNK)
                end += len(content)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(field, f"{path}: {error}", "a readable file") from error


def _open_decompressed(file: Any) -> io.IOBase:
    """Returns the file, or a reader of its content if it is compressed."""
    head = file.read(16)
    file.seek(0)
    for magic, opener in _COMPRESSED:
        if magic.match(head):
            return opener(file)
    return file


def _detect_encoding(head: bytes, path: Path | epath.Path, field: str, wanted: str) -> tuple[bytes, str]:
    """Returns the byte order mark, if any, and the encoding of a file that begins with `head`."""
    check_format(head, path, field, wanted, refused=(LFS_POINTER, *BINARY))
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return mark, encoding
    if head.count(0) * 10 > len(head):  # more than a tenth of the bytes are zero
        found = f"{path}, which is binary, or UTF-16 without a byte order mark"
        raise UserError(field, found, wanted, "convert text: iconv -f UTF-16LE -t UTF-8 FILE")
    return b"", "utf-8"
