"""WordPiece as BERT does it, uncased or cased. The only package that knows the tokenizers library.

To read in this order: `wordpiece`, the tokenizer and how it runs; `training`, a vocabulary learned from texts;
`files`, tokenizers that are found, read and written; `hugging_face`, what its files say of a tokenizer, and refusals.
"""

from tokenizers import Tokenizer

from symbert_jax.data.tokenizer.files import find, load, read, read_for_model, write, write_vocabulary
from symbert_jax.data.tokenizer.hugging_face import ROLES, SETTINGS, SPECIAL_TOKENS, TOKENIZER, to_settings
from symbert_jax.data.tokenizer.training import train
from symbert_jax.data.tokenizer.wordpiece import Normalization, WordPiece, special_ids

__all__ = [
    "ROLES",
    "SETTINGS",
    "SPECIAL_TOKENS",
    "TOKENIZER",
    "Normalization",
    "Tokenizer",
    "WordPiece",
    "find",
    "load",
    "read",
    "read_for_model",
    "special_ids",
    "to_settings",
    "train",
    "write",
    "write_vocabulary",
]
