"""A split of random rows in memory, in place of a split on disk."""

import numpy as np

from symbert_jax.data.tokenizer import Normalization, WordPiece
from symbert_jax.data.vocabulary import SPECIAL

VOCABULARY = [*SPECIAL, *(f"w{i}" for i in range(1000))]
TOKENIZER = WordPiece(tuple(VOCABULARY), Normalization())
LENGTH = 16


class FakeRows:
    """Random rows; the second token of row i is 5 + i, by which a test recognizes the row."""

    def __init__(self, count: int):
        # 5 is the first id of an ordinary token, 2 is [CLS], 3 is [SEP].
        self.tokens = np.random.default_rng(0).integers(5, 1005, (count, LENGTH)).astype(np.uint16)
        self.tokens[:, 0], self.tokens[:, 1], self.tokens[:, -1] = 2, 5 + np.arange(count), 3

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitems__(self, indices):
        return [{"tokens": self.tokens[index]} for index in indices]
