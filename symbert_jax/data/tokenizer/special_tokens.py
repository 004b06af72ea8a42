"""Finds the special tokens of a tokenizer.json by their roles."""

import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etils import epath
from tokenizers import Tokenizer, models

from symbert_jax.data.tokenizer.settings import SAVE_HINT, Settings
from symbert_jax.data.tokenizer.text_tokenizer import Roles
from symbert_jax.errors import UserError

# The usual spellings, for a tokenizer.json whose special tokens no file names.
_USUAL = {"mask_token": ("[MASK]", "<mask>"), "pad_token": ("[PAD]", "<pad>"), "unk_token": ("[UNK]", "<unk>")}


def find_roles(
    source: Tokenizer, model: Mapping[str, Any], settings: Settings, file: Path | epath.Path, field: str
) -> Roles:
    """Returns the ids of the special tokens, which the small files name, or the post-processor, or else convention."""
    named: dict[str, int] = {}
    for role, token in settings.roles.items():
        i = source.token_to_id(token.content) if isinstance(token.content, str) else None
        if i is None:
            found = f"{role} {reprlib.repr(token.content)} in {token.file}"
            raise UserError(field, found, f"a token of {file}", SAVE_HINT)
        named[role] = i
    for role, spellings in _USUAL.items():
        found_ids = [i for token in spellings if (i := source.token_to_id(token)) is not None]
        if role not in named and found_ids:
            named[role] = found_ids[0]
    if (unk_token := model.get("unk_token")) is not None:
        if (i := source.token_to_id(unk_token)) is None:
            raise UserError(field, f"unk_token {unk_token!r} in {file}", "a token of the vocabulary")
        named["unk_token"] = i
    if isinstance(source.model, models.Unigram):
        if model.get("unk_id") is None:
            raise UserError(field, f"no unk_id in {file}", "a token for unknown characters")
        named["unk_token"] = model["unk_id"]
    named |= _find_frame(source, named, file, field)
    for role in ("mask_token", "pad_token"):
        if role not in named:
            kind = role.removesuffix("_token")
            example = json.dumps({role: _USUAL[role][0]})
            hint = f"add one with transformers: tokenizer.add_special_tokens({example}), then save_pretrained"
            raise UserError(field, f"no {kind} token in {file}", f"a tokenizer with a {kind} token", hint)
    cls, sep, pad, mask = ids = [named[f"{role}_token"] for role in ("cls", "sep", "pad", "mask")]
    if len(set(ids)) < len(ids):
        found = ", ".join(f"{source.id_to_token(i)!r}" for i in ids)
        wanted = "four different tokens"
        raise UserError(field, f"cls, sep, pad and mask tokens {found} in {file}", wanted)
    unk = named.get("unk_token")
    if unknown := [i for i in (*ids, unk) if i is not None and source.id_to_token(i) is None]:
        raise UserError(field, f"a special token of id {unknown[0]} in {file}", "an id of the vocabulary")
    return Roles(cls, sep, pad, mask, None if unk in ids else unk)


def _find_frame(source: Tokenizer, named: Mapping[str, int], file: Path | epath.Path, field: str) -> dict[str, int]:
    """Returns the ids of the tokens cls and sep, between which the post-processor puts a text.

    Raises:
      UserError: it does not, or the files name other tokens.
    """
    try:
        text, framed, pair = source.encode("a", add_special_tokens=False), source.encode("a"), source.encode("a", "a")
    except Exception as error:  # the library raises no narrower type
        raise UserError(field, f"{file}: {error}", "a tokenizer that encodes texts") from None
    kind = "none" if source.post_processor is None else type(source.post_processor).__name__
    found = f"post_processor {kind} in {file}, which makes {' '.join(framed.tokens)!r} of 'a'"
    hint = 'set one with tokenizers: TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", …)'
    if len(framed.ids) != len(text.ids) + 2 or framed.ids[1:-1] != text.ids:
        raise UserError(field, found, "one that puts a text between the cls and the sep token", hint)
    frame = {"cls_token": framed.ids[0], "sep_token": framed.ids[-1]}
    types = pair.type_ids  # 0 and then, in most tokenizers, 1 from the second text on
    if (pair.ids[0], pair.ids[-1]) != tuple(frame.values()) or types != sorted(types) or types[-1] > 1:
        raise UserError(field, f"post_processor {kind} in {file}", "[CLS] A [SEP] B [SEP] for a pair of texts", hint)
    for role, i in frame.items():
        if named.get(role, i) != i:
            wanted = f"{source.id_to_token(i)!r}, as its post_processor has it"
            raise UserError(field, f"{role} {source.id_to_token(named[role])!r} of {file}", wanted)
    return frame


def add_special(
    definition: dict[str, Any],
    source: Tokenizer,
    tokens: tuple[str, ...],
    roles: Roles,
    file: Path | epath.Path,
    field: str,
) -> None:
    """Adds the tokens of all roles to the added tokens, as transformers does when it opens the file."""
    added = {token["content"]: token for token in definition.get("added_tokens") or []}
    for i, token in source.get_added_tokens_decoder().items():
        if added[token.content]["id"] != i:
            found = f"id {added[token.content]['id']} of {token.content!r} in the added tokens of {file}"
            raise UserError(field, found, f"{i}, the next free id")
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    for i in {i for i in roles if i is not None}:
        if tokens[i] in added:
            added[tokens[i]]["special"] = True
        else:
            added[tokens[i]] = {"id": i, "content": tokens[i]} | flags | {"special": True}
    definition["added_tokens"] = sorted(added.values(), key=lambda token: token["id"])
