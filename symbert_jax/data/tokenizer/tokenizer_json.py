"""Reads a tokenizer.json: BERT's tokenizer as `WordPiece`, any other as `JsonTokenizer`."""

import json
import reprlib
from pathlib import Path
from typing import Any

from etils import epath
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from symbert_jax.data import vocabulary
from symbert_jax.data.tokenizer.json_tokenizer import JsonTokenizer
from symbert_jax.data.tokenizer.settings import SAVE_HINT, Settings, to_normalization
from symbert_jax.data.tokenizer.special_tokens import add_special, find_roles
from symbert_jax.data.tokenizer.text_tokenizer import PREFIX, TextTokenizer, special_token
from symbert_jax.data.tokenizer.wordpiece import MAX_WORD_LENGTH, Normalization, WordPiece, post_processors
from symbert_jax.data.tokenizer.words import shows_words
from symbert_jax.data.vocabulary import SPECIAL, UNK
from symbert_jax.errors import UserError
from symbert_jax.storage import parse_json_object, read_text

# Texts that different tokenizers encode differently: accents as part of a letter and after it, scripts, case, control
# characters, long words, brackets.
_PROBES = (
    "The cat, UNWANTED: running! don't ... $3.12 -- a1",
    "caf\u00e9 cafe\u0301 \u00c9 \u00df \u0130i \ufb01 \u03a3\u0391\u03a3 \u0419 \u1e9e \u01c5",
    "\u4e2d\u56fdthe\u4e2d \u3042\u30ab\u304c \ud55c\uae00 \u05e9\u05c1\u05b8 \u0e01\u0e33",
    " \t\r\n\u3000\xa0a\x00\x07b\u200bc\u00add\ufffde\u2028f\U0001f44d\U0001f3fd",
    f"{'x' * 100} {'x' * 101} {'ab' * 60}",
    "the [MASK] o[MASK]f[SEP]it [mask] [CLS] [PAD] [UNK] ##s [unused1] <s> </s> <pad> <mask>",
    "",
)
_MODELS = (models.WordPiece, models.BPE, models.Unigram)


def read_tokenizer_json(file: Path | epath.Path, field: str, settings: Settings) -> TextTokenizer:
    """Returns the tokenizer of a tokenizer.json: a `WordPiece` if it is BERT's.

    settings: those of the files beside it, which name the special tokens. Without them, a text's first and last token
      are the roles cls and sep, and mask and pad have one of the usual spellings.

    Raises:
      UserError: the file is damaged, or the tokenizer in it cannot be used (see `_general`).
    """
    text = read_text(file, field)
    definition = parse_json_object(text, f"{file}", field)  # its errors are clearer than those of the library
    try:
        source = Tokenizer.from_str(text)
    except Exception as error:  # the library raises no narrower type
        raise UserError(field, f"{file}: {error}", "a tokenizer that the package tokenizers reads") from None
    source.no_truncation()
    source.no_padding()
    tokens = tuple(vocabulary.from_ids(source.get_vocab(), file, field))
    if not settings.problem(field) and (wordpiece := _bert(source, tokens)):
        return wordpiece
    return _general(definition, source, tokens, settings, file, field)


def _bert(source: Tokenizer, tokens: tuple[str, ...]) -> WordPiece | None:
    """Returns the tokenizer as a `WordPiece`, or None if it gives any text other ids than BERT's tokenizer would."""
    model, normalizer = source.model, source.normalizer
    added = {token.content for token in source.get_added_tokens_decoder().values()}
    if not (
        isinstance(model, models.WordPiece)
        and isinstance(normalizer, normalizers.BertNormalizer)
        and isinstance(source.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
        and (model.unk_token, model.continuing_subword_prefix) == (UNK, PREFIX)
        and model.max_input_chars_per_word == MAX_WORD_LENGTH
        and added <= set(SPECIAL) <= set(tokens)
        and not any(map(vocabulary.has_white_space, tokens))
    ):
        return None
    wordpiece = WordPiece(tokens, to_normalization({name: getattr(normalizer, name) for name in Normalization._fields}))
    forms = post_processors(wordpiece.cls_id, wordpiece.sep_id)
    if source.post_processor is None or _state(source.post_processor) not in map(_state, forms):
        return None
    return wordpiece if _has_same_ids(source, wordpiece) else None


def _state(part: Any) -> Any:
    """Returns a part of a tokenizer as the JSON value that describes it."""
    return json.loads(part.__getstate__())


def _has_same_ids(source: Tokenizer, wordpiece: WordPiece) -> bool:
    """Whether the tokenizer of a file gives sample texts the ids that `wordpiece` gives them.

    Differences that are allowed are disregarded: the form of the post-processor, and special tokens that the file does
    not list as added tokens.
    """
    source = Tokenizer.from_str(source.to_str())
    source.post_processor = post_processors(wordpiece.cls_id, wordpiece.sep_id)[0]
    added = {token.content for token in source.get_added_tokens_decoder().values()}
    source.add_special_tokens([special_token(token) for token in SPECIAL if token not in added])
    sample = " ".join(wordpiece.tokens[:: max(1, len(wordpiece.tokens) // 1000)])
    for parse_special in (True, False):
        source.encode_special_tokens = not parse_special
        built = wordpiece.build(parse_special=parse_special)
        for text in (*_PROBES, sample, sample.upper()):
            if source.encode(text).ids != built.encode(text).ids:
                return False
    return True


def _general(
    definition: dict[str, Any],
    source: Tokenizer,
    tokens: tuple[str, ...],
    settings: Settings,
    file: Path | epath.Path,
    field: str,
) -> JsonTokenizer:
    """Returns any other tokenizer.

    Raises:
      UserError: its model is not WordPiece, BPE or Unigram, or is random; it lacks a special token or does not frame
        texts by [CLS] and [SEP]; its tokens do not show where words begin; or the files beside it have other tokens.
    """
    model = definition["model"]
    if not isinstance(source.model, _MODELS):
        wanted = "WordPiece, BPE or Unigram"
        raise UserError(field, f"model {type(source.model).__name__} in {file}", wanted)
    for name in ("dropout", "end_of_word_suffix"):
        if model.get(name):
            raise UserError(field, f"{name} {model[name]!r} in {file}", "none")
    if not shows_words(source):
        splitter = "none" if source.pre_tokenizer is None else type(source.pre_tokenizer).__name__
        wanted = "one whose tokens show where words begin, such as ByteLevel or Metaspace"
        raise UserError(field, f"pre_tokenizer {splitter} in {file}", wanted)
    definition |= {"truncation": None, "padding": None}
    roles = find_roles(source, model, settings, file, field)
    add_special(definition, source, tokens, roles, file, field)
    known = {token["content"] for token in definition["added_tokens"]}
    for token in settings.added:
        if not isinstance(token.content, str) or token.content not in known:
            found = f"added token {reprlib.repr(token.content)} in {token.file}"
            raise UserError(field, found, f"an added token of {file}", SAVE_HINT)
    tokenizer = JsonTokenizer(tokens, roles, json.dumps(definition, ensure_ascii=False))
    try:
        tokenizer.build(parse_special=False)
    except Exception as error:  # the library raises no narrower type
        wanted = "special tokens that are not made of ordinary ones, so that no text can forge them"
        raise UserError(field, f"{file}: {error}", wanted) from None
    return tokenizer
