"""The small files beside a vocabulary in which Hugging Face names the special tokens and the normalization."""

import reprlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from etils import epath

from symbert_jax.data.tokenizer.text_tokenizer import TextTokenizer
from symbert_jax.data.tokenizer.wordpiece import Normalization, WordPiece
from symbert_jax.data.vocabulary import CLS, MASK, PAD, SEP, SPECIAL, UNK
from symbert_jax.errors import UserError
from symbert_jax.storage import read_json

TOKENIZER, SETTINGS = "tokenizer.json", "tokenizer_config.json"
SPECIAL_TOKENS_FILE, ADDED_TOKENS = "special_tokens_map.json", "added_tokens.json"
# BERT's special tokens by their names in these files.
BERT_ROLES = {"unk_token": UNK, "sep_token": SEP, "pad_token": PAD, "cls_token": CLS, "mask_token": MASK}
SAVE_HINT = f"save the tokenizer with transformers: save_pretrained writes a {TOKENIZER} with all tokens"

_CLASSES = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer")  # each with or without "Fast"
_NORMALIZATION = {  # the fields of `Normalization` by their names in a tokenizer_config.json
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
    "clean_text": "clean_text",
}


class NamedToken(NamedTuple):
    """A token that a file names."""

    content: Any  # a string, unless the file is wrong
    file: Path | epath.Path


class Settings(NamedTuple):
    """The settings of a tokenizer in the small files beside a vocabulary."""

    # By the fields of `Normalization`; only those that are set.
    normalization: Mapping[str, bool | None] = MappingProxyType({})
    tokenizer_class: Any = None  # as in tokenizer_config.json, unchecked; None if it is not set
    roles: Mapping[str, NamedToken] = MappingProxyType({})  # by the keys of BERT_ROLES; only those that are set
    added: tuple[NamedToken, ...] = ()  # the tokens that the files add

    def problem(self, field: str) -> UserError | None:
        """Returns an error if the special tokens are not BERT's, or a token is added."""
        for role, token in self.roles.items():
            if token.content != BERT_ROLES[role]:
                found = f"{role} {reprlib.repr(token.content)} in {token.file}"
                return UserError(field, found, f"{BERT_ROLES[role]}, as BERT has it, or a {TOKENIZER}")
        for token in self.added:
            if token.content not in SPECIAL:
                found = f"added token {reprlib.repr(token.content)} in {token.file}"
                return UserError(field, found, f"no other than {' '.join(SPECIAL)}, or a {TOKENIZER}")
        return None


def read_settings(folder: Path | epath.Path, field: str) -> Settings:
    """Reads special_tokens_map.json, tokenizer_config.json and added_tokens.json of a folder; each may be missing.

    Raises:
      UserError: a file is damaged, or has a setting that tokenizers of the library do not have.
    """
    normalization: dict[str, bool | None] = {}
    roles: dict[str, NamedToken] = {}
    added: list[NamedToken] = []
    settings: dict[str, Any] = {}
    for file in (folder / SPECIAL_TOKENS_FILE, folder / SETTINGS):  # SETTINGS last: its class is returned below
        settings = read_json(file, field) if file.exists() else {}
        for name, wanted in (("do_basic_tokenize", True), ("never_split", None)):
            if (found := settings.get(name, wanted)) not in (wanted, None, []):
                raise UserError(field, f"{name} {reprlib.repr(found)} in {file}", f"{wanted or 'none'}")
        for role in BERT_ROLES:
            if (token := _content(settings.get(role))) is not None:
                if role in roles and roles[role].content != token:
                    expected = f"{reprlib.repr(roles[role].content)}, as in {roles[role].file}"
                    raise UserError(field, f"{role} {reprlib.repr(token)} in {file}", expected)
                roles[role] = NamedToken(token, file)
        decoder = settings.get("added_tokens_decoder") or {}
        tokens = list(decoder.values()) if isinstance(decoder, dict) else [decoder]
        others = settings.get("additional_special_tokens") or []
        tokens += others if isinstance(others, list) else [others]
        added += [NamedToken(_content(token), file) for token in tokens]
        for name, attribute in _NORMALIZATION.items():
            if name not in settings:
                continue
            if not (isinstance(settings[name], bool) or (settings[name] is None and name == "strip_accents")):
                raise UserError(field, f"{name} {reprlib.repr(settings[name])} in {file}", "true or false")
            normalization[attribute] = settings[name]
    if (file := folder / ADDED_TOKENS).exists():
        added += [NamedToken(token, file) for token in read_json(file, field)]
    return Settings(normalization, settings.get("tokenizer_class"), roles, tuple(added))


def to_normalization(fields: Mapping[str, bool | None]) -> Normalization:
    """Returns a normalization with these fields; one that is missing or None has its default.

    The default of strip_accents is the value of lowercase.
    """
    known = {name: value for name, value in fields.items() if value is not None}
    return Normalization(**{"strip_accents": known.get("lowercase", True)} | known)


def check_class(settings: Settings, folder: Path | epath.Path, field: str) -> None:
    """Raises `UserError` if the settings beside a vocab.txt describe a tokenizer other than BERT's."""
    found = settings.tokenizer_class or _CLASSES[0]
    if f"{found}".removesuffix("Fast") not in _CLASSES:
        found = f"tokenizer_class {reprlib.repr(found)} in {folder / SETTINGS}"
        raise UserError(field, found, "BertTokenizer", f"or a {TOKENIZER}")
    if problem := settings.problem(field):
        raise problem


def role_names(tokenizer: TextTokenizer) -> dict[str, str]:
    """Returns the content of a special_tokens_map.json: the special tokens by their roles."""
    if isinstance(tokenizer, WordPiece):
        return BERT_ROLES
    return {f"{role}_token": tokenizer.tokens[i] for role, i in tokenizer.roles._asdict().items() if i is not None}


def to_settings(tokenizer: TextTokenizer, length: int) -> dict[str, Any]:
    """Returns the content of a tokenizer_config.json; `length` is the largest number of tokens that the model reads."""
    if not isinstance(tokenizer, WordPiece):
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": length,
            "clean_up_tokenization_spaces": False,
            **role_names(tokenizer),
        }
    lowercase, strip_accents, handle_chinese_chars, clean_text = tokenizer.normalization
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
            str(tokenizer.tokens.index(token)): {"content": token, "special": True} | flags
            for token in sorted(BERT_ROLES.values(), key=tokenizer.tokens.index)
        },
        **BERT_ROLES,
    }


def _content(token: Any) -> Any:
    """Returns the spelling of a token, which the files give as a string or as an object."""
    return token.get("content") if isinstance(token, dict) else token
