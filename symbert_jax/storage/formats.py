"""Recognises the format of a file by its first bytes, for errors about files in an unexpected format."""

import os
import re
from collections.abc import Iterable
from typing import NamedTuple

from etils import epath

from symbert_jax.errors import UserError


class Format(NamedTuple):
    magic: re.Pattern[bytes]  # matches at the beginning of a file
    name: str  # as in "FILE, which is NAME"
    hint: str


def _format(magic: bytes, name: str, hint: str) -> Format:
    return Format(re.compile(magic, re.DOTALL), name, hint)


LFS_POINTER = _format(
    rb"version https://git-lfs",
    "a Git LFS pointer instead of the file",
    "fetch the file: git lfs pull, in its folder",
)
# HTML and XML may be in a corpus. In place of JSON, weights or a table, they are the error page of a server.
MARKUP = (
    _format(rb"(?i:(\xef\xbb\xbf)?\s*<(!doctype|html))", "an HTML page", "download it again"),
    _format(rb"(\xef\xbb\xbf)?\s*<\?xml", "an XML file", "download it again"),
)
_ROWS_HINT = "write its rows as JSON lines, or as TSV for GLUE"
BINARY = (
    _format(rb"\x28\xb5\x2f\xfd", "Zstandard", "unpack it: zstd -d FILE"),
    _format(rb"\x04\x22\x4d\x18", "LZ4", "unpack it: lz4 -d FILE"),
    _format(rb"PK(\x03\x04|\x05\x06)", "a zip archive (as .docx, .epub and .xlsx are)", "unpack it: unzip FILE"),
    _format(rb".{257}ustar", "a tar archive", "unpack it: tar -xf FILE"),  # the magic is in the first header
    _format(rb"7z\xbc\xaf\x27\x1c|Rar!\x1a", "a 7z or rar archive", "unpack it"),
    _format(rb"PAR1", "Parquet", "read it as parquet:FILE in data.sources, or write its rows as TSV for GLUE"),
    _format(rb"ARROW1|\xff{4}", "Arrow", f"{_ROWS_HINT}, such as with datasets: to_json"),  # of a file, of a stream
    _format(rb"%PDF-", "PDF", "extract its text: pdftotext FILE"),
    _format(rb"\xd0\xcf\x11\xe0|\{\\rtf", "a document of a word processor", "save it as text"),  # .doc, .rtf
    _format(rb"SQLite format 3\0", "an SQLite database", _ROWS_HINT),
)
HEAD = 512  # bytes at the beginning of a file that suffice to recognise any of these formats


def check_format(head: bytes, path: epath.PathLike, field: str, wanted: str, *, refused: Iterable[Format]) -> None:
    """Raises `UserError` if a file that begins with `head` has one of the `refused` formats.

    path, field: name the file in errors.
    wanted: what errors say was expected instead.
    """
    for magic, name, hint in refused:
        if magic.match(head):
            raise UserError(field, f"{os.fspath(path)}, which is {name}", wanted, hint)
