"""Text from files, plain or compressed, in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

Compression and encoding are recognised by the first bytes of a file, not by its name. Memory does not grow with the
size of a file.
"""

import bz2
import codecs
import gzip
import io
import itertools
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
from etils import epath

from symbert_jax.data.sources.files import COMPRESSIONS
from symbert_jax.errors import UserError
from symbert_jax.storage import BINARY, HEAD, LFS_POINTER, check_format

READABLE = "UTF-8 text or JSON lines, plain or as .gz, .bz2, .xz or .zst"

CHUNK = 1 << 17  # bytes decoded at a time
_PROBE = 1 << 16  # bytes read at a time to find a boundary


def _open_zstandard(file: Any) -> Any:
    return pyarrow.CompressedInputStream(pyarrow.PythonFile(file, "r"), "zstd")


# The first bytes of gzip, of bzip2, of xz and of Zstandard. bzip2's are followed by the mark of a block or of the end
# of the data. pzstd begins a file with a frame to skip, which has another magic.
_COMPRESSED: tuple[tuple[re.Pattern[bytes], Callable[[Any], Any]], ...] = (
    (re.compile(rb"\x1f\x8b"), gzip.open),
    (re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"), bz2.open),
    (re.compile(rb"\xfd7zXZ\0"), lzma.open),
    (re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"), _open_zstandard),
)
_SHORTEST = 10  # bytes by which each of these is recognised, fewer than any compressed file has
_MARKS = (  # byte order marks; UTF-32-LE comes before UTF-16-LE, because its mark begins with that of UTF-16-LE
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (codecs.BOM_UTF8, "utf-8"),
)


def read_chunks(path: Path | epath.Path, start: int = 0, end: int | None = None) -> Iterator[str]:
    """Yields the text of a source file, or of the bytes from `start` to `end` of one; see `decode`."""
    return decode(path, "data.sources", READABLE, start, end)


def decode(path: Path | epath.Path, field: str, wanted: str, start: int = 0, end: int | None = None) -> Iterator[str]:
    """Yields the text of a file, decompressed and decoded, without a byte order mark, in chunks of any size.

    field: the config field that names the file, for errors.
    wanted: what errors say was expected of the file.
    start, end: yields only the text between these bytes of the file, for which `is_divisible` holds.

    Raises:
      UserError: the file cannot be read, its compressed content is damaged or ends too early, or it is not text in one
        of the encodings; the error names the line and the offset of a byte that cannot be decoded.
    """
    try:
        with path.open("rb") as raw, _open_decompressed(raw, path) as file:
            chunks = _bytes_between(file, start, end)
            first = next(chunks, b"")
            mark, encoding = (b"", "utf-8") if start else _detect_encoding(first, path, field, wanted)
            decoder, line, bytes_read = codecs.getincrementaldecoder(encoding)(), 1, start
            for content in itertools.chain([first], chunks, [b""]):
                try:
                    text = decoder.decode(content.removeprefix(mark), final=not content)
                except UnicodeDecodeError as error:
                    bytes_read += len(content) - len(error.object) + error.start
                    line += error.object[: error.start].decode(encoding).count("\n") + count_lines(path, start)
                    found = f"{path}, line {line}: byte {bytes_read} is not {encoding.upper()}"
                    hint = "convert another encoding: iconv -f LATIN1 -t UTF-8 FILE"
                    raise UserError(field, found, wanted, hint) from None
                if text:
                    yield text
                line += text.count("\n")
                bytes_read += len(content)
                mark = b""
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(field, f"{path}: {error}", "a readable file") from error


def is_divisible(path: Path | epath.Path) -> bool:
    """Whether a file is plain UTF-8, so that any part of it between two line ends can be decoded alone."""
    with path.open("rb") as raw:
        head = raw.read(HEAD)
    is_compressed = any(magic.match(head) for magic, _ in _COMPRESSED)
    return not is_compressed and _detect_encoding(head, path, "data.sources", READABLE)[1] == "utf-8"


def find_boundary(path: Path | epath.Path, offset: int, boundary: re.Pattern[bytes]) -> int:
    """Returns the offset of the end of the first match of `boundary` from the byte before `offset` on.

    It is 0 for offset 0, and the size of the file if there is no match. So consecutive offsets divide a file into parts
    that begin and end at boundaries, and to know one part takes no knowledge of the others.

    boundary: a pattern of bytes that are white space.
    """
    if offset == 0:
        return 0
    position, buffer = offset - 1, b""  # `buffer` holds the bytes at `position`
    with path.open("rb") as file:
        file.seek(position)
        while chunk := file.read(_PROBE):
            buffer += chunk
            if match := boundary.search(buffer):
                return position + match.end()
            blank = len(buffer) - len(buffer.rstrip())  # a match may begin in the white space at the end
            position, buffer = position + len(buffer) - blank, buffer[len(buffer) - blank :]
    return position + len(buffer)


def count_lines(path: Path | epath.Path, end: int) -> int:
    """Returns the number of line ends in the first `end` bytes of a file, for errors."""
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in _bytes_between(file, 0, end))


def _bytes_between(file: Any, start: int, end: int | None) -> Iterator[bytes]:
    if start:
        file.seek(start)
    while content := file.read(CHUNK if end is None else min(CHUNK, end - start)):
        yield content
        start += len(content)


def _open_decompressed(file: Any, path: Path | epath.Path) -> io.IOBase:
    """Returns `file`, or a reader that decompresses it if it is compressed.

    Raises:
      EOFError: the name is that of a compressed file, and the file is shorter than any such file.
    """
    head = file.read(_SHORTEST)
    file.seek(0)
    for magic, opener in _COMPRESSED:
        if magic.match(head):
            return opener(file)
    if len(head) < _SHORTEST and path.name.lower().endswith(COMPRESSIONS):
        raise EOFError("Compressed file ended before its first block")
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
