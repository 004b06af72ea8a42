"""The content of a file decides how it is read; memory is bounded, and an error names the file."""

import bz2
import codecs
import gzip
import json
import lzma
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symbert_jax.data.sources import files
from symbert_jax.errors import UserError

SENTENCES = "The first one ends.\nSo does the second!\nA third, with ümläuts 中."
# the layout of BERT's own data: a sentence on each line, blank lines between documents
BERT = f"{SENTENCES}\n\nAnother document.\nIt has two lines.\n \n\n{SENTENCES}\n"
# prose with line breaks within sentences and blank lines between paragraphs
WRAPPED = (
    "It was the best of times, it was\nthe worst of times, it was the age\nof wisdom.\n\nIt was the epoch\nof belief.\n"
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-be", "utf-32-be"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("name", ["a", "A.TXT", "a.gz"])
def test_text_is_read_by_content_not_by_name(
    encoding: str, pack: Callable[[bytes], bytes], name: str, tmp_path: Path
) -> None:
    mark = {"utf-16-be": codecs.BOM_UTF16_BE, "utf-32-be": codecs.BOM_UTF32_BE}.get(encoding, b"")
    text = SENTENCES.replace("\n", "\r\n")
    (tmp_path / name).write_bytes(pack(mark + text.encode(encoding)))
    assert list(files.read_text(tmp_path / name)) == [text]
    objects = [{"id": 1, "text": text}, {"text": "b"}]
    for content in ("\r\n\r\n".join(map(json.dumps, objects)), json.dumps(objects), json.dumps(objects, indent=1)):
        (tmp_path / name).write_bytes(pack(mark + content.encode(encoding)))
        assert list(files.read_json(tmp_path / name)) == [text, "b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x28\xb5\x2f\xfd\x04", "which is Zstandard, wanted UTF-8 text or JSON lines, .*; unpack it: zstd -d FILE"),
        (b"PK\x03\x04\x14", "which is a zip archive"),
        (gzip.compress(b"a/b".ljust(257, b"\0") + b"ustar\x0000", mtime=0), "which is a tar archive"),
        (b"PAR1\x15\x04", "which is Parquet"),
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
    ],
)
def test_file_that_cannot_be_decoded_is_one_error(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    for read in (files.read_text, files.read_json):
        with pytest.raises(UserError, match=f"^data.sources: found {tmp_path}/a[,:] {message}"):
            list(read(tmp_path / "a"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n{"content": "b", "id": 1}', 'line 2: an object with "content", "id", wanted .* string "text"'),
        ('{"text": null}', 'line 1: "text" is null, wanted an object with the string "text"'),
        ('\n"a"\n', 'line 2: "a", wanted an object'),
        ('{"text": "a"}\n{}', "line 2: an object with no field, wanted"),
        ("[" * 100_000, "item 1: maximum recursion depth"),
        ('{"a":' * 100_000, "line 1: maximum recursion depth"),
        ('{"a": ' + "1" * 5000 + "}", "line 1: Exceeds the limit"),
        ('[{"text": "a"}, {"text": "b"]', "item 2: Expecting ',' delimiter, wanted an array"),
        ('[{"text": "a"}', "item 2: Expecting value, wanted an array"),
        ('[{"text": "a"}] [{"text": "b"}]', "text after a JSON array"),
        ('[{"text": "a"}]' + " " * (3 << 20) + "x", "text after a JSON array"),
        ('{"text": "' + "a" * 5000, "line 1: more than 2,000 characters"),
        ('[{"text": "' + "a" * 5000, "item 1: more than 2,000 characters"),
    ],
)
def test_json_without_text_is_one_error(
    content: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "2,000" in message:  # a limit that a small file exceeds
        monkeypatch.setattr(files, "_MAX_OBJECT", 2000)
        monkeypatch.setattr(files, "_CHUNK", 1000)
    (tmp_path / "a").write_text(content)
    with pytest.raises(UserError, match=f"^data.sources: found {tmp_path}/a[,:] {message}"):
        list(files.read_json(tmp_path / "a"))


OBJECTS = st.lists(st.fixed_dictionaries({"text": st.text(max_size=30), "more": st.none() | st.lists(st.integers())}))


@settings(max_examples=60, deadline=None)
@given(objects=OBJECTS, chunk=st.integers(4, 40), indent=st.none() | st.integers(0, 2), is_array=st.booleans())
def test_json_is_read_from_chunks_of_any_size(objects: list, chunk: int, indent: int | None, is_array: bool) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_CHUNK", chunk)
        path = Path(folder) / "a"
        path.write_text(json.dumps(objects, indent=indent) if is_array else "\n".join(map(json.dumps, objects)))
        assert list(files.read_json(path)) == [value["text"] for value in objects]


def read_text(
    content: str, document: int = files.MAX_DOCUMENT, part: int = files.MAX_PART, chunk: int = 1 << 20
) -> list[str]:
    """Returns the documents of a file with this content, with these values of MAX_DOCUMENT, MAX_PART and _CHUNK."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        for name, value in (("MAX_DOCUMENT", document), ("MAX_PART", part), ("_CHUNK", chunk)):
            patch.setattr(files, name, value)
        path = Path(folder) / "a"
        path.write_text(content, newline="")
        return list(files.read_text(path))


def test_blank_lines_divide_only_the_layout_of_bert() -> None:
    assert read_text(BERT) == [SENTENCES, "Another document.\nIt has two lines.", SENTENCES]
    assert read_text(BERT.replace("\n", "\r\n"))[1] == "Another document.\r\nIt has two lines."
    for book in (WRAPPED, f"{SENTENCES}\n\n", "A paragraph, long.\n\nA second.\n\nA third.\n", "", "\n\n"):
        assert read_text(book) == [book]


def test_book_of_usual_size_is_one_document() -> None:
    book = WRAPPED * 38_000
    assert files.MAX_DOCUMENT * 0.9 < len(book) < files.MAX_DOCUMENT
    assert read_text(book) == [book]


TEXTS = st.text("abc. \n中", max_size=400) | st.lists(st.sampled_from(["A b.\n", "\n", "c d", "\r\n"])).map("".join)


@settings(max_examples=100, deadline=None)
@given(text=TEXTS, document=st.integers(20, 90), chunk=st.integers(8, 60))
def test_divided_text_is_complete_in_short_parts(text: str, document: int, chunk: int) -> None:
    parts = read_text(text, document=document, part=16, chunk=chunk)
    assert re.sub(r"\s", "", "".join(parts)) == re.sub(r"\s", "", text)
    assert all(len(part) <= document for part in parts)


def test_long_text_is_cut_at_blank_lines_line_ends_or_spaces() -> None:
    parts = read_text(WRAPPED * 20, document=300, part=256)
    assert len(parts) > 5 and all(part.endswith(".") for part in parts)
    sentences = [f"this is sentence {number}" for number in range(100)]
    parts = read_text("\n".join(sentences), document=200, part=100)
    assert len(parts) > 10 and {line for part in parts for line in part.split("\n")} == set(sentences)
    words = " ".join(sentences)
    assert " ".join(read_text(words, document=200, part=100)) == words
    assert "".join(read_text("a" * 1000, document=200, part=100)) == "a" * 1000


@pytest.mark.parametrize("kind", ["sentences", "bert", "no line end"])
def test_memory_does_not_grow_with_a_text_file(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any time, few characters have been read and not yet yielded. Small sizes take the place of gigabytes."""
    for name, value in (("MAX_DOCUMENT", 1 << 12), ("MAX_PART", 1 << 8), ("_CHUNK", 1 << 10)):
        monkeypatch.setattr(files, name, value)
    end = {"sentences": ".\n", "bert": ".\n", "no line end": " "}[kind]
    text = "".join(f"sentence {i}{end}" + "\n" * (kind == "bert" and i % 10 == 9) for i in range(20_000))
    (tmp_path / "a").write_text(text)
    read = yielded = most = count = 0
    read_chunks = files._read_chunks

    def count_read(path: Path):
        nonlocal read
        for chunk in read_chunks(path):
            read += len(chunk)
            yield chunk

    monkeypatch.setattr(files, "_read_chunks", count_read)
    for part in files.read_text(tmp_path / "a"):
        most, yielded, count = max(most, read - yielded), yielded + len(part) + 1, count + 1
    assert read == len(text) and count >= 1000 and most < 4 << 12
