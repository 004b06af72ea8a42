"""Tokenizers: BERT's, and any that a tokenizer.json describes. The only package that imports the tokenizers library.

Reading order: `text_tokenizer`, what every tokenizer offers; `wordpiece`, BERT's; `json_tokenizer`, any other, with
`words`, which of its tokens continue a word; `training`, a vocabulary learned from texts; `settings`, `special_tokens`
and `tokenizer_json`, the files in which Hugging Face describes a tokenizer; `files`, tokenizers on disk and from the
hub.
"""

from tokenizers import Tokenizer

from symbert_jax.data.tokenizer.files import (
    find,
    is_written,
    load,
    read,
    read_for_model,
    tokenizer_json_of,
    write,
    write_vocabulary,
)
from symbert_jax.data.tokenizer.json_tokenizer import JsonTokenizer
from symbert_jax.data.tokenizer.settings import SETTINGS, SPECIAL_TOKENS_FILE, TOKENIZER, role_names, to_settings
from symbert_jax.data.tokenizer.text_tokenizer import Roles, TextTokenizer
from symbert_jax.data.tokenizer.training import Training, count_words, find_training, train
from symbert_jax.data.tokenizer.wordpiece import Normalization, WordPiece

__all__ = [
    "SETTINGS",
    "SPECIAL_TOKENS_FILE",
    "TOKENIZER",
    "JsonTokenizer",
    "Normalization",
    "Roles",
    "TextTokenizer",
    "Tokenizer",
    "Training",
    "WordPiece",
    "count_words",
    "find",
    "find_training",
    "is_written",
    "load",
    "read",
    "read_for_model",
    "role_names",
    "to_settings",
    "tokenizer_json_of",
    "train",
    "write",
    "write_vocabulary",
]
