"""The token ids of documents."""

from array import array
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import UInt

from symbert_jax.data.prepare.word_ids import WordIds
from symbert_jax.data.rows import row_dtype
from symbert_jax.data.tokenizer import TextTokenizer, WordPiece

_BATCH = 1 << 20  # characters that one call of the library encodes; they bound its memory
_PIECE = 1 << 12  # characters after which a document is cut at the next line end
_LONGEST = 1 << 16  # characters of a piece; the library's memory and time for a longer one grow faster than its length


class Encoder:
    """Encodes documents, in which the names of special tokens are ordinary text.

    WordPiece encodes each word alone, so its words are looked up; the library encodes the texts of other tokenizers.
    """

    def __init__(self, tokenizer: TextTokenizer):
        self.tokenizer = tokenizer
        self.dtype = row_dtype(len(tokenizer.tokens))  # of the ids
        self._library = tokenizer.build(parse_special=False)
        self._words = WordIds(self._library, self.dtype)

    def encode(self, texts: Iterable[str]) -> Iterator[UInt[np.ndarray, " n"]]:
        """Yields the token ids of each text, the last of which is [SEP]."""
        sep = np.array([self.tokenizer.sep_id], self.dtype).tobytes()
        if isinstance(self.tokenizer, WordPiece):
            split, look_up = self.tokenizer.split_words, self._words.__getitem__
            for text in texts:
                pieces = [b"".join(map(look_up, split(piece))) for piece in split_text(text)]
                yield np.frombuffer(b"".join([*pieces, sep]), self.dtype)
        else:
            for batch in group_texts(texts):
                for encoding in self._library.encode_batch_fast(batch, add_special_tokens=False):
                    # An array of Python is faster to fill from a list than one of numpy.
                    ids = array(self.dtype.char, [*encoding.ids, self.tokenizer.sep_id])
                    yield np.frombuffer(ids, self.dtype)


def split_text(text: str) -> Iterator[str]:
    """Yields the pieces of a text, each cut at the first line end after _PIECE characters.

    WordPiece gives the pieces of a text the tokens of the text, as no token crosses a line end or a space. A line that
    would make a piece longer than _LONGEST is cut at a space, or anywhere if it has none: such a line is not text, and
    its one enormous word, which is [UNK], becomes several.
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


def group_texts(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yields the texts in lists of about _BATCH characters."""
    batch, size = list[str](), 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
