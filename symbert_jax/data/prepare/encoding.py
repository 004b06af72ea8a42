"""The token ids of a document."""

from array import array
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from jaxtyping import UInt

from symbert_jax.data.tokenizer import TextTokenizer, Tokenizer

_BATCH = 1 << 20  # characters that one call of the library encodes; they bound its memory
_PIECE = 1 << 12  # characters after which a document is cut at the next line end; one core encodes one piece
_LONGEST = 1 << 16  # characters of a piece; the library's memory and time for a longer one grow faster than its length


def encode(
    tokenizer: TextTokenizer, encoder: Tokenizer, texts: Iterable[str], dtype: np.dtype
) -> Iterator[UInt[np.ndarray, " n"]]:
    """Yields the token ids of each text, the last of which is [SEP].

    encoder: the result of `tokenizer.build(parse_special=False)`.
    """
    ids = array("I")  # faster to fill from the library's lists than numpy arrays
    for batch in batch_pieces(texts, split_text if tokenizer.splits_at_line_ends else whole_text):
        encodings = encoder.encode_batch_fast([piece for piece, _ in batch], add_special_tokens=False)
        for encoding, (_, is_last) in zip(encodings, batch, strict=True):
            ids.extend(array("I", encoding.ids))
            if is_last:
                ids.append(tokenizer.sep_id)
                yield np.frombuffer(ids, np.uint32).astype(dtype)
                ids = array("I")


def split_text(text: str) -> Iterator[str]:
    """Yields the pieces of a text, each cut at the first line end after _PIECE characters.

    Pieces of similar length keep all cores busy. No token crosses a line end or a space, so the cuts change no token.
    A line that would make a piece longer than _LONGEST is cut at a space, or anywhere if it has none: such a line is
    not text, and its one enormous word, which is [UNK], becomes several.
    """
    start = 0
    while len(text) - start > _PIECE:
        end = text.find("\n", start + _PIECE, start + _LONGEST)
        if end < 0 and len(text) - start <= _LONGEST:
            break
        if end < 0 and (end := text.rfind(" ", start + _PIECE, start + _LONGEST)) < 0:
            end = start + _LONGEST
        yield text[start:end]
        start = end
    yield text[start:]


def whole_text(text: str) -> Iterator[str]:
    """Yields the text as its only piece."""
    yield text


def batch_pieces(
    texts: Iterable[str], split: Callable[[str], Iterator[str]] = split_text
) -> Iterator[list[tuple[str, bool]]]:
    """Yields lists of pieces, of about _BATCH characters, each piece with whether it is the last one of its text."""
    batch, size = list[tuple[str, bool]](), 0
    for text in texts:
        *pieces, last = split(text)
        for piece, is_last in (*((piece, False) for piece in pieces), (last, True)):
            batch.append((piece, is_last))
            size += len(piece)
            if size >= _BATCH:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch
