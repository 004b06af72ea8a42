"""Documents of text files."""

import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from etils import epath

from symbert_jax.data.sources.decoding import find_boundary, is_divisible, read_chunks

# `read` explains these limits, in characters.
MAX_DOCUMENT = 1 << 22
MAX_PART = 1 << 16

_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")  # a line end and the blank lines after it, such as "\n \n"
_BLANK_LINE = re.compile(rb"\n[^\S\n]*\n")


def read(path: Path | epath.Path, start: int = 0, end: int | None = None) -> Iterator[str]:
    """Yields the documents of a text file, or those of a part of one.

    A file that begins like BERT's own data, with one sentence per line and blank lines between documents, is divided at
    the blank lines, and a document of more than MAX_DOCUMENT characters is cut into shorter ones. Any other file is one
    document, unless it has more than MAX_DOCUMENT characters: then it is cut into parts of at most MAX_PART, at a blank
    line in the second half of a part if there is one, else at a line end, else at a space, else anywhere.

    start, end: byte offsets of a part of a file for which `can_divide` holds. The documents that begin in it are read.

    Raises:
      UserError: as `decode`.
    """
    if end is not None:
        start, end = (find_boundary(path, offset, _BLANK_LINE) for offset in (start, end))
        yield from _divide(read_chunks(path, start, end), shortest=0, longest=MAX_DOCUMENT)
        return
    chunks = read_chunks(path)
    head = _read_head(chunks)
    if _has_bert_layout(head):
        yield from _divide(itertools.chain([head], chunks), shortest=0, longest=MAX_DOCUMENT)
    elif len(head) > MAX_DOCUMENT:
        yield from _divide(itertools.chain([head], chunks), shortest=MAX_PART // 2, longest=MAX_PART)
    else:
        yield head


def can_divide(path: Path | epath.Path) -> bool:
    """Whether `read` can read parts of a file: it is plain UTF-8 in BERT's layout."""
    return is_divisible(path) and _has_bert_layout(_read_head(read_chunks(path)))


def _read_head(chunks: Iterator[str]) -> str:
    """Returns the first chunks of a file, of more than MAX_DOCUMENT characters together, or the whole file."""
    pieces, size = [], 0
    for chunk in chunks:
        pieces.append(chunk)
        if (size := size + len(chunk)) > MAX_DOCUMENT:
            break
    return "".join(pieces)


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
