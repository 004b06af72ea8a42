"""The content of a file decides how it is read; each damage is one error that names the file."""

import bz2
import codecs
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest

from symbert_jax.data.sources import json_lines, plain_text
from symbert_jax.errors import UserError

SENTENCES = "The first one ends.\nSo does the second!\nA third, with ümläuts 中."


def compress_frame(content: bytes) -> bytes:
    return pyarrow.compress(content, "zstd", asbytes=True)


def compress_zstandard(content: bytes) -> bytes:
    """Returns two frames, after one that readers skip, as pzstd writes them."""
    middle = len(content) // 2
    skipped = b"\x50\x2a\x4d\x18\x04\0\0\0skip"
    return skipped + compress_frame(content[:middle]) + compress_frame(content[middle:])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-be", "utf-32-be"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress, compress_zstandard])
@pytest.mark.parametrize("name", ["a", "A.TXT", "a.gz"])
def test_text_is_read_by_content_not_by_name(
    encoding: str, pack: Callable[[bytes], bytes], name: str, tmp_path: Path
) -> None:
    mark = {"utf-16-be": codecs.BOM_UTF16_BE, "utf-32-be": codecs.BOM_UTF32_BE}.get(encoding, b"")
    text = SENTENCES.replace("\n", "\r\n")
    (tmp_path / name).write_bytes(pack(mark + text.encode(encoding)))
    assert list(plain_text.read(tmp_path / name)) == [text]
    objects = [{"id": 1, "text": text}, {"text": "b"}]
    for content in ("\r\n\r\n".join(map(json.dumps, objects)), json.dumps(objects), json.dumps(objects, indent=1)):
        (tmp_path / name).write_bytes(pack(mark + content.encode(encoding)))
        assert list(json_lines.read(tmp_path / name)) == [text, "b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04\x14", "which is a zip archive"),
        (gzip.compress(b"a/b".ljust(257, b"\0") + b"ustar\x0000", mtime=0), "which is a tar archive"),
        (b"PAR1\x15\x04", "which is Parquet.*; read it as parquet:FILE"),
        (b"\xff\xff\xff\xff\x10\x00", "which is Arrow"),
        (b"%PDF-1.7\n", "which is PDF"),
        (b"\xd0\xcf\x11\xe0", "which is a document of a word processor"),
        (b"version https://git-lfs.github.com/spec/v1\n", "which is a Git LFS pointer.*; fetch the file: git lfs pull"),
        ("A text.".encode("utf-16-le"), "which is binary, or UTF-16 without a byte order mark"),
        (b"one\ntwo caf\xe9 and", "line 2: byte 11 is not UTF-8, .*; convert another encoding: iconv -f LATIN1"),
        (codecs.BOM_UTF16_LE + b"a\0\n\0\0\xd8a\0", "line 2: byte 6 is not UTF-16-LE"),
        (codecs.BOM_UTF8 + b"one\n\xff", "line 2: byte 7 is not UTF-8"),
        (gzip.compress(b"a text", mtime=0)[:-9], "Compressed file ended before"),
        (gzip.compress(b"a text", mtime=0)[:-6] + b"??????", "CRC check failed"),
        (lzma.compress(b"a text" * 99)[:-40] + b"?" * 40, "Corrupt input data"),
        (bz2.compress(b"a text" * 99)[:-12] + b"?" * 12, "Invalid data stream"),
        (pyarrow.compress(b"a text" * 99, "zstd")[:-2], "Truncated compressed stream"),
    ],
)
def test_file_that_cannot_be_decoded_is_one_error(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    for read in (plain_text.read, json_lines.read):
        with pytest.raises(UserError, match=f"^data.sources: found {tmp_path}/a[,:] {message}"):
            list(read(tmp_path / "a"))


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_compressed_file_cut_anywhere_is_an_error(suffix: str, tmp_path: Path) -> None:
    """A download that was cut, even to nothing, is never read as fewer documents."""
    packed = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": compress_frame}
    content, path = packed[suffix](b'{"text": "a"}\n'), tmp_path / f"a.jsonl{suffix}"
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(UserError, match=f"^data.sources: found {path}"):
            list(plain_text.read(path))
