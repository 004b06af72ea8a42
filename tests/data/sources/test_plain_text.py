"""Text files are divided into documents, whole or in parts, with bounded memory."""

import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symbert_jax.data.sources import decoding, plain_text

SENTENCES = "The first one ends.\nSo does the second!\nA third, with ümläuts 中."
# the layout of BERT's own data: a sentence on each line, blank lines between documents
BERT = f"{SENTENCES}\n\nAnother document.\nIt has two lines.\n \n\n{SENTENCES}\n"
# prose with line breaks within sentences and blank lines between paragraphs
WRAPPED = (
    "It was the best of times, it was\nthe worst of times, it was the age\nof wisdom.\n\nIt was the epoch\nof belief.\n"
)


def read_text(
    content: str, document: int = plain_text.MAX_DOCUMENT, part: int = plain_text.MAX_PART, chunk: int = 1 << 20
) -> list[str]:
    """Returns the documents of a file with this content, with these values of MAX_DOCUMENT, MAX_PART and CHUNK."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        for name, value in (("MAX_DOCUMENT", document), ("MAX_PART", part)):
            patch.setattr(plain_text, name, value)
        patch.setattr(decoding, "CHUNK", chunk)
        path = Path(folder) / "a"
        path.write_text(content, newline="")
        return list(plain_text.read(path))


def test_blank_lines_divide_only_the_layout_of_bert() -> None:
    assert read_text(BERT) == [SENTENCES, "Another document.\nIt has two lines.", SENTENCES]
    assert read_text(BERT.replace("\n", "\r\n"))[1] == "Another document.\r\nIt has two lines."
    for book in (WRAPPED, f"{SENTENCES}\n\n", "A paragraph, long.\n\nA second.\n\nA third.\n", "", "\n\n"):
        assert read_text(book) == [book]


def test_book_of_usual_size_is_one_document() -> None:
    book = WRAPPED * 38_000
    assert plain_text.MAX_DOCUMENT * 0.9 < len(book) < plain_text.MAX_DOCUMENT
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
    for name, value in (("MAX_DOCUMENT", 1 << 12), ("MAX_PART", 1 << 8)):
        monkeypatch.setattr(plain_text, name, value)
    monkeypatch.setattr(decoding, "CHUNK", 1 << 10)
    end = {"sentences": ".\n", "bert": ".\n", "no line end": " "}[kind]
    text = "".join(f"sentence {i}{end}" + "\n" * (kind == "bert" and i % 10 == 9) for i in range(20_000))
    (tmp_path / "a").write_text(text)
    read = yielded = most = count = 0
    read_chunks = plain_text.read_chunks

    def count_read(path: Path):
        nonlocal read
        for chunk in read_chunks(path):
            read += len(chunk)
            yield chunk

    monkeypatch.setattr(plain_text, "read_chunks", count_read)
    for part in plain_text.read(tmp_path / "a"):
        most, yielded, count = max(most, read - yielded), yielded + len(part) + 1, count + 1
    assert read == len(text) and count >= 1000 and most < 4 << 12
