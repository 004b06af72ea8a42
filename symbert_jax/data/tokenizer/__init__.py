"""WordPiece as BERT does it, uncased or cased. The only package that imports the tokenizers library.

Reading order: `wordpiece`, the tokenizer and how the library runs it; `training`, a vocabulary learned from texts;
`hugging_face`, the files in which Hugging Face describes a tokenizer; `files`, tokenizers on disk and from the hub.
"""

from tokenizers import Tokenizer

from symbert_jax.data.tokenizer.files import find, load, read, read_for_model, write, write_vocabulary
from symbert_jax.data.tokenizer.hugging_face import ROLES, SETTINGS, SPECIAL_TOKENS_FILE, TOKENIZER, to_settings
from symbert_jax.data.tokenizer.training import count_words, train
from symbert_jax.data.tokenizer.wordpiece import Normalization, WordPiece, special_ids

__all__ = [
    "ROLES",
    "SETTINGS",
    "SPECIAL_TOKENS_FILE",
    "TOKENIZER",
    "Normalization",
    "Tokenizer",
    "WordPiece",
    "count_words",
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
