"""The token ids of words, which are looked up, because the words of a language repeat."""

from array import array

import numpy as np

from symbert_jax.data.tokenizer import Tokenizer

_MAX_WORDS = 1 << 17  # which take about 20 MB; most words of a text are among the first that are met
_MAX_BYTES = 1 << 6  # of a word that is kept


class WordIds(dict[bytes, bytes]):
    """The token ids of each word, joined in the type of rows, by the word in UTF-8, as from `WordPiece.split_words`.

    The library encodes a word that is not kept, which takes fifty times as long as looking it up.
    """

    def __init__(self, encoder: Tokenizer, dtype: np.dtype):
        super().__init__()
        self._encoder, self._model, self._type = encoder, encoder.model, dtype.char

    def __missing__(self, word: bytes) -> bytes:
        text = word.decode()
        if word.isalnum():  # only ASCII: nothing to normalize, which takes the library most of its time
            found = [token.id for token in self._model.tokenize(text)]
        else:
            found = self._encoder.encode(text, add_special_tokens=False).ids
        ids = array(self._type, found).tobytes()
        if len(self) < _MAX_WORDS and len(word) <= _MAX_BYTES:
            self[word] = ids
        return ids
