"""Texts from files, plain or compressed, in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

Compression and encoding are recognised by the first bytes of a file, not by its name. Memory does not grow with the
size of a file.
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

# `read_text` explains these limits, in characters. JSON objects have a limit of their own.
MAX_DOCUMENT = 1 << 22
MAX_PART = 1 << 16

_CHUNK = 1 << 20  # bytes decoded at a time
_MAX_OBJECT = 1 << 28  # characters of a JSON object; a longer one is an error
_READABLE = "UTF-8 text or JSON lines, plain or as .gz, .bz2 or .xz"
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")  # a line end and the blank lines after it, such as "\n \n"
# The first bytes of gzip, of bzip2 and of xz. bzip2's are followed by the mark of a block or of the end of the data.
_COMPRESSED = (
    (re.compile(rb"\x1f\x8b"), gzip.open),
    (re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"), bz2.open),
    (re.compile(rb"\xfd7zXZ\0"), lzma.open),
)
_MARKS = (  # byte order marks; UTF-32-LE comes before UTF-16-LE, because its mark begins with that of UTF-16-LE
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (codecs.BOM_UTF8, "utf-8"),
)


def find_files(directory: Path, endings: tuple[str, ...]) -> list[Path]:
    """Returns the files below a directory, sorted, whose names end in one of `endings`, in upper or lower case.

    Compressed files, whose names have .gz, .bz2, .xz or .zst after the ending, are included.

    Raises:
      UserError: there is no such file.
    """
    # Zstandard is not supported, but .zst files are included: reading one raises an error that tells how to unpack it.
    names = tuple(ending + compression for ending in endings for compression in ("", ".gz", ".bz2", ".xz", ".zst"))
    found = [path for path in directory.rglob("*") if path.name.lower().endswith(names) and path.is_file()]
    if not found:
        wanted = f"files named *{' or *'.join(endings)}, plain or as .gz, .bz2 or .xz"
        raise UserError("data.sources", f"no such file below {directory}", wanted)
    return sorted(found)


def read_text(path: Path) -> Iterator[str]:
    """Yields the documents of a text file.

    A file that begins like BERT's own data, with one sentence per line and blank lines between documents, is divided at
    the blank lines, and a document of more than MAX_DOCUMENT characters is cut into shorter ones. Any other file is one
    document, unless it has more than MAX_DOCUMENT characters: then it is cut into parts of at most MAX_PART, at a blank
    line in the second half of a part if there is one, else at a line end, else at a space, else anywhere.

    Raises:
      UserError: as `decode`.
    """
    chunks, pieces, size = _read_chunks(path), [], 0
    for chunk in chunks:
        pieces.append(chunk)
        if (size := size + len(chunk)) > MAX_DOCUMENT:
            break
    head = "".join(pieces)
    if _has_bert_layout(head):
        yield from _divide(itertools.chain([head], chunks), shortest=0, longest=MAX_DOCUMENT)
    elif size > MAX_DOCUMENT:
        yield from _divide(itertools.chain([head], chunks), shortest=MAX_PART // 2, longest=MAX_PART)
    else:
        yield head


def read_json(path: Path) -> Iterator[str]:
    """Yields the field `text` of every JSON object in a file: one object per line, or all in one array.

    Raises:
      UserError: as `decode`; or a line or an item of the array is not a JSON object with a text; the error names it.
    """
    chunks, head = _read_chunks(path), ""
    for chunk in chunks:
        head += chunk
        if not head.isspace():
            break
    is_array = head.lstrip().startswith("[")
    values = (_parse_array if is_array else _parse_lines)(path, itertools.chain([head], chunks))
    for where, value in values:
        if not isinstance(value, dict) or not isinstance(value.get("text"), str):
            raise UserError("data.sources", f"{where}: {_describe(value)}", 'an object with the string "text"')
        try:
            value["text"].encode()  # an escape such as \ud800 can be half a surrogate pair, which UTF-8 cannot encode
        except UnicodeEncodeError as error:
            raise UserError("data.sources", f"{where}: {error.reason}", "Unicode text") from None
        yield value["text"]


def _has_bert_layout(text: str) -> bool:
    """Whether blank lines divide a text into blocks of two or more lines on average, with a sentence on each line.

    A line that ends in punctuation counts as a sentence. Three quarters of the lines must be sentences; in prose
    with line breaks, about a fifth are. The last line of a block is left out, because it ends a sentence in prose, too.
    """
    blocks = [block.split("\n") for block in _BLANK_LINES.split(text.strip())]
    inner = [line.rstrip() for block in blocks for line in block[:-1]]
    sentences = sum(unicodedata.category(line[-1]).startswith("P") for line in inner if line)
    return len(inner) >= len(blocks) > 1 and sentences >= 0.75 * len(inner)


def _divide(chunks: Iterable[str], shortest: int, longest: int) -> Iterator[str]:
    """Yields a text in parts of at most `longest` characters, without white space at their ends.

    A part ends at the first blank line between `shortest` and `longest` characters after its start. If there is none
    and the text is longer than `longest`, the part ends at the last line end between them, else at the last space, else
    after `longest` characters.
    """
    text = ""
    for chunk in chunks:
        text, start = text + chunk, 0
        while (blank := _BLANK_LINES.search(text, start + shortest, start + longest)) or len(text) - start > longest:
            window = start + shortest, start + longest
            line, space = text.rfind("\n", *window), text.rfind(" ", *window)
            end = blank.end() if blank else line + 1 or space + 1 or start + longest
            yield text[start:end].strip()
            start = end
        text = text[start:]
    yield text.strip()


def _parse_lines(path: Path, chunks: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Yields `PATH, line N`, for errors, and the JSON value of every line that is not blank."""
    number, pieces = 1, list[str]()
    for chunk in itertools.chain(chunks, ["\n"]):
        *ends, rest = chunk.split("\n")  # each of `ends` completes a line; `rest` begins one
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
    """Yields `PATH, item N`, for errors, and the value of every item of the JSON array in a file."""
    chunks, decoder, separator = iter(chunks), json.JSONDecoder(), re.compile(r"[\s,]*")
    text, start, number = next(chunks).lstrip()[1:], 0, 1  # the text after the opening bracket
    while True:
        where = f"{path}, item {number}"
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
    """Describes, for errors, a JSON value that is not an object with a text."""
    if not isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)[:60]
    if "text" in value:
        return f'"text" is {json.dumps(value["text"], ensure_ascii=False)[:60]}'
    return f"an object with {', '.join(map(json.dumps, list(value)[:10])) or 'no field'}"


def _read_chunks(path: Path) -> Iterator[str]:
    """Yields the text of a source file in chunks; see `decode`."""
    return decode(path, "data.sources", _READABLE)


def decode(path: Path | epath.Path, field: str, wanted: str) -> Iterator[str]:
    """Yields the text of a file, decompressed and decoded, without a byte order mark, in chunks of any size.

    field: the config field that names the file, for errors.
    wanted: what errors say was expected of the file.

    Raises:
      UserError: the file cannot be read, its compressed content is damaged, or it is not text in one of the encodings;
        the error names the line and the offset of a byte that cannot be decoded.
    """
    try:
        with path.open("rb") as raw, _open_decompressed(raw) as file:
            content = file.read(_CHUNK)
            mark, encoding = _detect_encoding(content, path, field, wanted)
            decoder, line, bytes_read = codecs.getincrementaldecoder(encoding)(), 1, len(content)
            content = content.removeprefix(mark)
            while True:
                try:
                    text = decoder.decode(content, final=not content)
                except UnicodeDecodeError as error:
                    line += error.object[: error.start].decode(encoding).count("\n")
                    byte = bytes_read - len(error.object) + error.start
                    found = f"{path}, line {line}: byte {byte} is not {encoding.upper()}"
                    hint = "convert another encoding: iconv -f LATIN1 -t UTF-8 FILE"
                    raise UserError(field, found, wanted, hint) from None
                if text:
                    yield text
                if not content:
                    return
                line += text.count("\n")
                content = file.read(_CHUNK)
                bytes_read += len(content)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(field, f"{path}: {error}", "a readable file") from error


def _open_decompressed(file: Any) -> io.IOBase:
    """Returns `file`, or a reader that decompresses it if it is compressed."""
    head = file.read(16)
    file.seek(0)
    for magic, opener in _COMPRESSED:
        if magic.match(head):
            return opener(file)
    return file


def _detect_encoding(head: bytes, path: Path | epath.Path, field: str, wanted: str) -> tuple[bytes, str]:
    """Returns the byte order mark (maybe empty) and the encoding of a file that begins with `head`.

    Raises:
      UserError: the file is binary.
    """
    check_format(head, path, field, wanted, refused=(LFS_POINTER, *BINARY))
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return mark, encoding
    if head.count(0) * 10 > len(head):  # more than a tenth of the bytes are zero
        found = f"{path}, which is binary, or UTF-16 without a byte order mark"
        raise UserError(field, found, wanted, "convert text: iconv -f UTF-16LE -t UTF-8 FILE")
    return b"", "utf-8"
