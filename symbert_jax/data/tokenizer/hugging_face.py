"""The files in which Hugging Face describes a tokenizer; settings that BERT's tokenizer does not have are refused."""

import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from symbert_jax.data import vocabulary
from symbert_jax.data.tokenizer.wordpiece import (
    MAX_WORD_LENGTH,
    PREFIX,
    Normalization,
    WordPiece,
    post_processors,
    special_token,
)
from symbert_jax.data.vocabulary import CLS, MASK, PAD, SEP, SPECIAL, UNK
from symbert_jax.errors import UserError
from symbert_jax.storage import parse_json_object, read_json, read_text

TOKENIZER, SETTINGS = "tokenizer.json", "tokenizer_config.json"
SPECIAL_TOKENS_FILE, ADDED_TOKENS = "special_tokens_map.json", "added_tokens.json"
# The special tokens by their names in these files.
ROLES = {"unk_token": UNK, "sep_token": SEP, "pad_token": PAD, "cls_token": CLS, "mask_token": MASK}

_CLASSES = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer")  # each with or without "Fast"
_NORMALIZATION = {  # the fields of `Normalization` by their names in a tokenizer_config.json
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
    "clean_text": "clean_text",
}
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


class Settings(NamedTuple):
    """The settings of a tokenizer in the small files beside a vocabulary."""

    normalization: dict[str, bool | None]  # by the fields of `Normalization`; only those that are set
    tokenizer_class: Any  # as in tokenizer_config.json, unchecked; None if it is not set


def read_settings(folder: Path | epath.Path, field: str) -> Settings:
    """Reads special_tokens_map.json, tokenizer_config.json and added_tokens.json of a folder; each may be missing.

    Raises:
      UserError: a file is damaged, or has a setting that BERT's tokenizer does not have.
    """
    normalization: dict[str, bool | None] = {}
    settings: dict[str, Any] = {}
    for file in (folder / SPECIAL_TOKENS_FILE, folder / SETTINGS):  # SETTINGS last: its class is returned below
        settings = read_json(file, field) if file.exists() else {}
        for role, token in ROLES.items():
            found = settings.get(role, token)
            if (found.get("content") if isinstance(found, dict) else found) != token:
                raise UserError(field, f"{role} {reprlib.repr(found)} in {file}", f"{token}, as BERT has it")
        for name, wanted in (("do_basic_tokenize", True), ("never_split", None), ("additional_special_tokens", None)):
            if (found := settings.get(name, wanted)) not in (wanted, None, []):
                raise UserError(field, f"{name} {reprlib.repr(found)} in {file}", f"{wanted or 'none'}")
        added = settings.get("added_tokens_decoder", {})
        tokens = list(added.values()) if isinstance(added, dict) else [added]
        _check_added([token.get("content") if isinstance(token, dict) else token for token in tokens], file, field)
        for name, attribute in _NORMALIZATION.items():
            if name not in settings:
                continue
            if not (isinstance(settings[name], bool) or (settings[name] is None and name == "strip_accents")):
                raise UserError(field, f"{name} {reprlib.repr(settings[name])} in {file}", "true or false")
            normalization[attribute] = settings[name]
    if (file := folder / ADDED_TOKENS).exists():
        _check_added(list(read_json(file, field)), file, field)
    return Settings(normalization, settings.get("tokenizer_class"))


def to_normalization(fields: Mapping[str, bool | None]) -> Normalization:
    """Returns a normalization with these fields; one that is missing or None has its default.

    The default of strip_accents is the value of lowercase.
    """
    known = {name: value for name, value in fields.items() if value is not None}
    return Normalization(**{"strip_accents": known.get("lowercase", True)} | known)


def to_settings(wordpiece: WordPiece, length: int) -> dict[str, Any]:
    """Returns the content of a tokenizer_config.json; `length` is the largest number of tokens that the model reads."""
    lowercase, strip_accents, handle_chinese_chars, clean_text = wordpiece.normalization
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {
        "tokenizer_class": _CLASSES[0],
        "do_lower_case": lowercase,
        "model_max_length": length,
        "strip_accents": None if strip_accents == lowercase else strip_accents,
        "tokenize_chinese_chars": handle_chinese_chars,
        **({} if clean_text else {"clean_text": False}),
        "clean_up_tokenization_spaces": True,
        "added_tokens_decoder": {
            str(wordpiece.tokens.index(token)): {"content": token, "special": True} | flags
            for token in sorted(ROLES.values(), key=wordpiece.tokens.index)
        },
        **ROLES,
    }


def check_class(settings: Settings, folder: Path | epath.Path, field: str) -> None:
    """Raises `UserError` if the settings beside a vocab.txt name a tokenizer other than BERT's."""
    found = settings.tokenizer_class or _CLASSES[0]
    if f"{found}".removesuffix("Fast") not in _CLASSES:
        found = f"tokenizer_class {reprlib.repr(found)} in {folder / SETTINGS}"
        raise UserError(field, found, "BertTokenizer", f"or a {TOKENIZER}")


def read_tokenizer_json(file: Path | epath.Path, field: str) -> WordPiece:
    """Returns the tokenizer of a tokenizer.json.

    Raises:
      UserError: the file is damaged, or the tokenizer in it is not WordPiece as BERT does it: its settings differ from
        BERT's, or it gives one of a few sample texts other ids than BERT's tokenizer does.
    """
    text = read_text(file, field)
    parse_json_object(text, f"{file}", field)  # its errors are clearer than those of the library
    try:
        source = Tokenizer.from_str(text)
    except Exception as error:  # the library raises no narrower type
        raise UserError(field, f"{file}: {error}", "a tokenizer that the package tokenizers reads") from None
    model, normalizer, splitter = source.model, source.normalizer, source.pre_tokenizer
    kinds = (
        ("model", model, models.WordPiece),
        ("normalizer", normalizer, normalizers.BertNormalizer),
        ("pre_tokenizer", splitter, pre_tokenizers.BertPreTokenizer),
    )
    for part, found, kind in kinds:
        if not isinstance(found, kind):
            name = "none" if found is None else type(found).__name__
            raise UserError(field, f"{part} {name} in {file}", f"{kind.__name__}, as BERT has it")
    for name, wanted in (
        ("unk_token", UNK),
        ("continuing_subword_prefix", PREFIX),
        ("max_input_chars_per_word", MAX_WORD_LENGTH),
    ):
        if (value := getattr(model, name)) != wanted:
            raise UserError(field, f"{name} {value!r} in {file}", f"{wanted!r}, as BERT has it")
    _check_added([token.content for token in source.get_added_tokens_decoder().values()], file, field)
    tokens = vocabulary.from_ids(source.get_vocab(), file, field)
    fields = {name: getattr(normalizer, name) for name in Normalization._fields}
    wordpiece = WordPiece(tuple(tokens), to_normalization(fields))
    forms = [json.loads(form.__getstate__()) for form in post_processors(tokens.index(CLS), tokens.index(SEP))]
    if source.post_processor is None or json.loads(source.post_processor.__getstate__()) not in forms:
        name = "none" if source.post_processor is None else type(source.post_processor).__name__
        raise UserError(field, f"post_processor {name} in {file}", f"one that frames texts as {CLS} A {SEP} B {SEP}")
    _check_same_ids(source, wordpiece, file, field)
    return wordpiece


def _check_same_ids(source: Tokenizer, wordpiece: WordPiece, file: Path | epath.Path, field: str) -> None:
    """Raises `UserError` if the tokenizer of a file and the `wordpiece` read from it give a sample text different ids.

    Differences that are allowed are first removed from `source`: truncation, padding, the form of the post-processor,
    and special tokens that the file does not list as added tokens.
    """
    source.no_truncation()
    source.no_padding()
    source.post_processor = post_processors(wordpiece.tokens.index(CLS), wordpiece.tokens.index(SEP))[0]
    added = {token.content for token in source.get_added_tokens_decoder().values()}
    source.add_special_tokens([special_token(token) for token in SPECIAL if token not in added])
    sample = " ".join(wordpiece.tokens[:: max(1, len(wordpiece.tokens) // 1000)])
    for parse_special in (True, False):
        source.encode_special_tokens = not parse_special
        built = wordpiece.build(parse_special=parse_special)
        for text in (*_PROBES, sample, sample.upper()):
            found, wanted = source.encode(text), built.encode(text)
            if found.ids != wanted.ids:
                i = next((i for i, (a, b) in enumerate(zip(found.ids, wanted.ids, strict=False)) if a != b), 0)
                found_tokens, wanted_tokens = " ".join(found.tokens[i:]), " ".join(wanted.tokens[i:])
                encoding = f"{file}, which encodes {text[:60]!r} as {found_tokens[:60]!r}"
                raise UserError(field, encoding, f"{wanted_tokens[:60]!r}, as BERT's tokenizer does")


def _check_added(tokens: list[Any], file: Path | epath.Path, field: str) -> None:
    """Raises `UserError` if a tokenizer adds tokens other than the special ones."""
    if others := [token for token in tokens if token not in SPECIAL]:
        wanted = f"no other than {' '.join(SPECIAL)}: a token that is matched in raw text is not supported"
        raise UserError(field, f"added token {reprlib.repr(others[0])} in {file}", wanted)
