"""Tokenizers other than BERT's: byte-level BPE, Unigram and other WordPieces give the ids of the library."""

import dataclasses
import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import BertWordPieceTokenizer, Tokenizer

from symbert_jax.data import tokenizer
from symbert_jax.data.prepare.encoding import Encoder
from symbert_jax.data.tokenizer import JsonTokenizer, Normalization, WordPiece
from symbert_jax.data.vocabulary import SPECIAL
from symbert_jax.errors import UserError
from tests.data.kinds import FOLDER, KINDS, documents, recorded

BERT = FOLDER.parent / "transformers" / "vocab.txt"


@pytest.mark.parametrize("kind", KINDS)
def test_ids_equal_those_of_transformers(kind: str) -> None:
    found, theirs = tokenizer.read(FOLDER / kind), recorded(kind)
    ours = found.build(parse_special=True)
    assert isinstance(found, JsonTokenizer) and found.roles._asdict() == theirs["roles"]
    for text, ids in theirs["texts"].items():
        assert ours.encode(text).ids == ids, text
    mask = found.tokens[found.mask_id]
    assert ours.encode(f"The {mask} of the work, {mask}.").ids == theirs["masked"]
    first, *_, second, _, _ = theirs["texts"]
    for parse_special in (True, False):
        pair = found.build(parse_special=parse_special).encode(first, second)
        assert (pair.ids, pair.type_ids) == (theirs["pair"]["ids"], theirs["pair"]["types"])


def test_corpus_has_the_ids_of_the_library() -> None:
    """Looking up the words of a document makes no difference."""
    texts = [*documents(1000), "\n".join(documents(50)), *recorded("roberta")["texts"]]
    theirs = {kind: Tokenizer.from_file(f"{FOLDER}/{kind}/tokenizer.json") for kind in KINDS}
    theirs["bert"] = BertWordPieceTokenizer(str(BERT))
    for kind, library in theirs.items():
        ours = tokenizer.read(BERT if kind == "bert" else FOLDER / kind)
        wanted = [each.ids for each in library.encode_batch(texts, add_special_tokens=False)]
        found = [ids.tolist() for ids in Encoder(ours).encode(texts)]
        assert found == [[*ids, ours.sep_id] for ids in wanted], kind
        assert isinstance(ours, WordPiece) == (kind == "bert")


SEPARATORS = " \n\r\t\x00\x0b\x0c\x1c\x85\xa0\u2028\u3000\u200d\ufffd.,'’—[]"
LETTERS = "aBéÅÅİßΣς1中龍한\u0301\u0327"


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.text(LETTERS + SEPARATORS), min_size=1), flags=st.tuples(*[st.booleans()] * 4))
def test_words_have_the_ids_of_their_text(texts: list[str], flags: tuple[bool, ...]) -> None:
    """WordPiece encodes a text word by word, whatever separates the words and whatever the tokenizer normalizes."""
    characters = {
        c for text in (LETTERS, SEPARATORS, LETTERS.lower()) for c in text + unicodedata.normalize("NFD", text)
    }
    letters = sorted(c for c in characters if not c.isspace())
    ours = WordPiece((*SPECIAL, *letters, *(f"##{letter}" for letter in letters)), Normalization(*flags))
    wanted = ours.build(parse_special=False).encode_batch(texts, add_special_tokens=False)
    found = [ids.tolist() for ids in Encoder(ours).encode(texts)]
    assert found == [[*each.ids, ours.sep_id] for each in wanted]


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_forges_special_tokens(kind: str) -> None:
    found = tokenizer.read(FOLDER / kind)
    special = [found.tokens[i] for i in np.flatnonzero(found.is_special)]
    assert {found.tokens[i] for i in found.roles} <= set(special)
    encoder = found.build(parse_special=False)
    for text in [" ".join(special), "".join(special), *(f"a{token}b {token}\n {token}" for token in special)]:
        ids = encoder.encode(text, add_special_tokens=False).ids
        assert [found.tokens[i] for i in ids if found.is_special[i] and i != found.unk_id] == []
        assert ids
    assert ("|||IP|||" in special) == (kind == "modernbert")


@pytest.mark.parametrize(
    "kind, words",
    [
        ("roberta", "The| Grüße|,| the| Häuser| (don|'t|)| 12|.5|\n中国| to|."),
        ("modernbert", "The| Grüße|,| the| Häuser| (don|'t|)| 12|.5|\n中国| to|."),
        ("xlm_roberta", "The| Grüße|,| the| Häuser| (don't|)| 12|.5| 中|国| to|."),
        ("wordpiece", "The| Grüße,| the| Häuser| (don't)| 12.5| 中国| to."),
    ],
)
def test_whole_words_are_known(kind: str, words: str) -> None:
    found, text = tokenizer.read(FOLDER / kind), words.replace("|", "")
    encoding = found.build(parse_special=False).encode(text, add_special_tokens=False)
    starts = [0]
    for i in range(1, len(encoding.ids)):
        if not found.continues_word[encoding.ids[i]]:
            starts.append(encoding.offsets[i][0])
    grouped = [text[start:end].strip(" ") for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
    assert [word for word in grouped if word] == [word.strip(" ") for word in words.split("|")]


@pytest.mark.parametrize("kind", KINDS)
def test_tokenizer_is_read_as_it_was_written(kind: str, tmp_path: Path) -> None:
    found = tokenizer.read(FOLDER / kind)
    (tmp_path / "vocab.txt").write_text("of another tokenizer")
    tokenizer.write(found, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["special_tokens_map.json", "tokenizer.json"]
    assert tokenizer.read(tmp_path) == found and tokenizer.read(tmp_path).fingerprint() == found.fingerprint()
    assert found.fingerprint() != dataclasses.replace(found, definition=f"{found.definition} ").fingerprint()


def change_model(**fields: object) -> Callable[[dict], object]:
    return lambda parsed: parsed["model"].update(fields)


def drop_token(content: str) -> Callable[[dict], object]:
    def change(parsed: dict) -> None:
        parsed["model"]["vocab"][content.strip("<>")] = parsed["model"]["vocab"].pop(content)
        parsed["added_tokens"] = [token for token in parsed["added_tokens"] if token["content"] != content]

    return change


def add_merge_of_special_token(parsed: dict) -> None:
    """Makes <s> of two ordinary tokens."""
    parsed["model"]["vocab"]["s>"] = len(parsed["model"]["vocab"])
    parsed["model"]["merges"] += [["s", ">"], ["<", "s>"]]


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda parsed: parsed.update(model={"type": "WordLevel", "vocab": {"a": 900}, "unk_token": "a"}),
            "model WordLevel in .*, wanted WordPiece, BPE or Unigram",
        ),
        (change_model(dropout=0.1), "dropout 0.1 in .*, wanted none"),
        (change_model(end_of_word_suffix="</w>"), "end_of_word_suffix '</w>' in .*, wanted none"),
        (lambda parsed: parsed.update(pre_tokenizer={"type": "Whitespace"}), "pre_tokenizer Whitespace in .*, wanted"),
        (lambda parsed: parsed.update(pre_tokenizer=None), "pre_tokenizer none in .*, wanted one whose tokens show"),
        (
            lambda parsed: parsed.update(post_processor=None),
            "post_processor none in .*, which makes 'a' of 'a', wanted",
        ),
        (drop_token("<mask>"), r"no mask token in .*, wanted .*; add one with transformers: .*mask_token"),
        (drop_token("<pad>"), "no pad token in .*, wanted a tokenizer with a pad token"),
        (add_merge_of_special_token, "wanted special tokens that are not made of"),
        (
            lambda parsed: parsed["added_tokens"].append(parsed["added_tokens"][0] | {"content": "<e>", "id": 900}),
            "id 900 of '<e>' in the added tokens of .*, wanted 420, the next free id",
        ),
        (lambda parsed: parsed["model"]["vocab"].update({"huge": 1 << 22}), "id 4194304 of 'huge' in"),
        (lambda parsed: parsed["model"]["vocab"].update(the=5), "id 5 for .*'the'.*, wanted a different id for each"),
    ],
)
def test_unusable_tokenizer_is_refused(change: Callable, message: str, tmp_path: Path) -> None:
    parsed = json.loads((FOLDER / "roberta" / "tokenizer.json").read_text())
    change(parsed)
    (tmp_path / "tokenizer.json").write_text(json.dumps(parsed))
    with pytest.raises(UserError, match=f"^data.vocab: found .*{message}"):
        tokenizer.read(tmp_path)


def test_files_beside_a_tokenizer_name_its_special_tokens(tmp_path: Path) -> None:
    source = FOLDER / "wordpiece"
    shutil.copy(source / "tokenizer.json", tmp_path)
    with pytest.raises(UserError, match=r"no mask token in .*tokenizer\.json"):
        tokenizer.read(tmp_path)  # its spelling is <blank>
    for names, message in (
        ({"mask_token": "<nowhere>", "pad_token": "<empty>"}, "mask_token '<nowhere>' in .*, wanted a token of .*json"),
        (
            {"mask_token": "<end>", "pad_token": "<empty>"},
            "cls, sep, pad and mask tokens .*'<end>'.*, wanted four diff",
        ),
        ({"mask_token": "<blank>", "sep_token": "<empty>"}, "sep_token '<empty>' of .*, wanted '<end>', as its post"),
        (
            {"mask_token": "<blank>", "pad_token": "<empty>", "additional_special_tokens": ["<e1>"]},
            "added token '<e1>' in .*special_tokens_map.json, wanted an added token of .*tokenizer.json; save",
        ),
    ):
        (tmp_path / "special_tokens_map.json").write_text(json.dumps(names))
        with pytest.raises(UserError, match=message):
            tokenizer.read(tmp_path)
    names = {"mask_token": {"content": "<blank>"}, "pad_token": "<empty>"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(names))
    assert tokenizer.read(tmp_path) == tokenizer.read(source)
    with pytest.raises(UserError, match=r"no vocab.txt or tokenizer.json in .*; save the tokenizer with transformers"):
        (tmp_path / "tokenizer.json").unlink()
        tokenizer.read(tmp_path)
