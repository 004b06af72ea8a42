"""Tokenizers on disk.

A corpus and a workdir hold the `vocab.txt` of BERT's tokenizer or the `tokenizer.json` of any other (see `write`).
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from etils import epath
from tokenizers import Tokenizer

from symbert_jax.data import vocabulary
from symbert_jax.data.tokenizer.json_tokenizer import JsonTokenizer
from symbert_jax.data.tokenizer.settings import (
    ADDED_TOKENS,
    SAVE_HINT,
    SETTINGS,
    SPECIAL_TOKENS_FILE,
    TOKENIZER,
    Settings,
    check_class,
    read_settings,
    role_names,
    to_normalization,
)
from symbert_jax.data.tokenizer.text_tokenizer import TextTokenizer
from symbert_jax.data.tokenizer.tokenizer_json import read_tokenizer_json
from symbert_jax.data.tokenizer.training import find_training, train
from symbert_jax.data.tokenizer.wordpiece import UNCASED, Normalization, WordPiece, tokens_with_capitals
from symbert_jax.data.vocabulary import VOCAB
from symbert_jax.errors import UserError
from symbert_jax.storage import absolute, write_whole

_CONFLICT_HINT = "make the two files agree, or name the tokenizer.json itself as the vocabulary: it is then read alone"


def load(path: Path | epath.Path, *, parse_special: bool) -> Tokenizer:
    """Returns the tokenizer of `path` (see `read`) as an object of the tokenizers library.

    parse_special: see `TextTokenizer.build`.

    Raises:
      UserError: as `read`.
    """
    return read(path).build(parse_special=parse_special)


def read(path: Path | epath.Path, field: str = "data.vocab") -> TextTokenizer:
    """Returns the tokenizer of a vocab.txt, of a tokenizer.json, or of a folder that holds one or both.

    For a folder, or a vocab.txt in it, all files of Hugging Face in the folder are read: the tokenizer has their
    settings, and they must not contradict each other. A tokenizer.json, or a vocabulary with a name other than
    vocab.txt, is read alone.

    field: names the tokenizer in errors.

    Raises:
      UserError: a file is missing or damaged, two of them differ, or the tokenizer cannot be used.
    """
    if path.is_dir():
        return _read_folder(path, field)
    if path.suffix == ".json":
        return read_tokenizer_json(path, field, Settings())
    return _read_folder(path.parent, field) if path.name == VOCAB else _read_vocabulary(path, {}, field)


def read_for_model(workdir: epath.Path, vocab_size: int) -> TextTokenizer:
    """Returns the tokenizer of a workdir whose model has `vocab_size` tokens.

    Raises:
      UserError: as `read`, or the tokenizer has more tokens than the model.
    """
    tokenizer = read(workdir, "checkpoint")
    if (count := len(tokenizer.tokens)) > vocab_size:
        wanted = f"at most {vocab_size}, the vocabulary size of the model"
        raise UserError("checkpoint", f"a tokenizer of {count} tokens in {workdir}", wanted)
    return tokenizer


def write(tokenizer: TextTokenizer, folder: Path | epath.Path) -> None:
    """Writes the files of the tokenizer of a corpus or a workdir.

    BERT's tokenizer has a vocab.txt, and a tokenizer.json beside it if the vocab.txt does not suffice: it suffices for
    a tokenizer with the default normalization whose tokens have no capitals. Any other tokenizer has a tokenizer.json
    and a special_tokens_map.json, which names its special tokens. The file that the tokenizer does not have is removed.
    """
    vocab, tokenizer_json = epath.Path(folder) / VOCAB, epath.Path(folder) / TOKENIZER
    if isinstance(tokenizer, WordPiece):
        if tokenizer.normalization != UNCASED or tokens_with_capitals(tokenizer.tokens):
            write_whole(tokenizer_json, tokenizer_json_of(tokenizer))
        else:
            tokenizer_json.unlink(missing_ok=True)
        write_whole(vocab, vocabulary.to_text(tokenizer.tokens))
        return
    write_whole(epath.Path(folder) / SPECIAL_TOKENS_FILE, json.dumps(role_names(tokenizer), indent=2) + "\n")
    write_whole(tokenizer_json, tokenizer_json_of(tokenizer))
    vocab.unlink(missing_ok=True)


def is_written(folder: Path | epath.Path) -> bool:
    """Whether `write` has written all files of a tokenizer to a folder: it writes the file tested here last."""
    return (folder / VOCAB).exists() or ((folder / SPECIAL_TOKENS_FILE).exists() and (folder / TOKENIZER).exists())


def tokenizer_json_of(tokenizer: TextTokenizer) -> str:
    """Returns the content of a tokenizer.json."""
    if isinstance(tokenizer, JsonTokenizer):
        return json.dumps(json.loads(tokenizer.definition), indent=2, ensure_ascii=False)
    return tokenizer.build(parse_special=True).to_str(pretty=True)


def write_vocabulary(
    vocab: str, counts: Mapping[str, int], size: int, folder: Path | epath.Path, *, lowercase: bool = True
) -> None:
    """Writes the tokenizer that `vocab` names to a folder, as `write` does.

    vocab: as `config.data.vocab`: a kind of tokenizer to train (see `find_training`), or a name for `find`.
    counts: how often each word occurs in the corpus (see `count_words`); only used for training.
    size: the largest number of tokens, which is also the number that training aims for.
    lowercase: as `config.data.lowercase`; only used for training.

    Raises:
      UserError: there is no such tokenizer, it cannot be used (see `read`), or it has more tokens than `size`.
    """
    training = find_training(vocab, lowercase)
    tokenizer = train(counts, size, training) if training else read(find(vocab))
    if (count := len(tokenizer.tokens)) > size:
        raise UserError("data.vocab", f"{count} tokens in {vocab}", f"at most model.vocab_size={size}")
    write(tokenizer, folder)


def find(vocab: str, field: str = "data.vocab") -> epath.Path:
    """Returns the path, for `read`, of the tokenizer that a user names; downloads hf:REPOSITORY from the hub.

    field: names the tokenizer in errors.

    Raises:
      UserError: it does not exist or cannot be downloaded.
    """
    if not vocab.startswith("hf:"):
        absolute(vocab, field)  # raises if it cannot be a path
        # Links are not resolved: in the hub's cache the files are links, and the files beside the links are read too.
        path = epath.Path(os.path.abspath(Path(vocab).expanduser()))
        if not path.exists():
            wanted = "a vocab.txt, a tokenizer.json, a folder with one of them, hf:REPOSITORY, train or train:bpe"
            raise UserError(field, f"no file {vocab}", wanted)
        return path
    from huggingface_hub import snapshot_download  # imported here: it takes a second, and local files do not need it

    try:
        files = [VOCAB, TOKENIZER, SETTINGS, SPECIAL_TOKENS_FILE, ADDED_TOKENS]
        return epath.Path(snapshot_download(vocab.removeprefix("hf:"), allow_patterns=files))
    except (OSError, ValueError) as error:  # every error of the hub is of one of these types
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        hint = "name a repository with a tokenizer, or download one and give its path"
        raise UserError(field, f"{vocab} ({reason})", "a tokenizer on the Hugging Face hub", hint) from error


def _read_folder(folder: Path | epath.Path, field: str) -> TextTokenizer:
    vocab, tokenizer_json = folder / VOCAB, folder / TOKENIZER
    settings = read_settings(folder, field)
    if not tokenizer_json.exists():
        if not vocab.exists():
            raise UserError(field, f"no {VOCAB} or {TOKENIZER} in {folder}", "at least one of the two", SAVE_HINT)
        check_class(settings, folder, field)
        return _read_vocabulary(vocab, settings.normalization, field)
    tokenizer = read_tokenizer_json(tokenizer_json, field, settings)
    if not isinstance(tokenizer, WordPiece):
        return tokenizer
    merged = to_normalization({**tokenizer.normalization._asdict(), **settings.normalization})
    for name, found, expected in zip(Normalization._fields, merged, tokenizer.normalization, strict=True):
        if found != expected:
            wanted = f"{expected}, as in {tokenizer_json}"
            raise UserError(field, f"{name} {found} in {folder / SETTINGS}", wanted, _CONFLICT_HINT)
    if vocab.exists() and (tokens := tuple(vocabulary.read(vocab, field))) != tokenizer.tokens:
        pairs = zip((*tokens, None), (*tokenizer.tokens, None), strict=False)
        i, (token, expected_token) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
        wanted = f"{expected_token!r}, as in {tokenizer_json}"
        raise UserError(field, f"token {i} is {token!r} in {vocab}", wanted, _CONFLICT_HINT)
    return tokenizer


def _read_vocabulary(vocab: Path | epath.Path, normalization: Mapping[str, bool | None], field: str) -> WordPiece:
    """Returns the tokenizer of a vocab.txt.

    normalization: the fields that the files beside the vocab.txt set.
    """
    wordpiece = WordPiece(tuple(vocabulary.read(vocab, field)), to_normalization(normalization))
    if "lowercase" not in normalization and (capitals := tokens_with_capitals(wordpiece.tokens)):
        hint = f'put the file, as {VOCAB}, in a folder with a {SETTINGS} of {{"do_lower_case": false}} (or true)'
        found = f"{len(capitals)} tokens with capitals in {vocab}, such as {capitals[0]!r}"
        raise UserError(field, found, "a setting that says whether texts are lower-cased", hint)
    return wordpiece
