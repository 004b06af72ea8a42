"""Tokenizers are trained on the words of a corpus: WordPiece or BPE, uncased or cased."""

import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from symbert_jax.data import tokenizer
from symbert_jax.data.tokenizer import Normalization, Training, WordPiece
from symbert_jax.errors import UserError
from tests.data.kinds import recorded

GERMAN = ["Die Häuser in Köln stehen am Fluß; das Haus am Ufer (alt) fällt.", "Über das Haus, die Häuser: 12.5"] * 9
ODD = [*recorded("roberta")["texts"], " ".join(GERMAN)]


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("model", ["wordpiece", "bpe"])
def test_trained_tokenizer_is_cased_or_not(model: str, lowercase: bool, tmp_path: Path) -> None:
    vocab = "train" if model == "wordpiece" else "train:bpe"
    training = tokenizer.find_training(vocab, lowercase)
    assert training == Training(model, lowercase) and str(training) == (vocab if lowercase else f"{vocab} cased")
    counts = tokenizer.count_words(GERMAN, training)
    tokenizer.write_vocabulary(vocab, counts, size=400, folder=tmp_path, lowercase=lowercase)
    found = tokenizer.read(tmp_path)
    assert found == tokenizer.train(counts, 400, training)
    words = {found.readable(i) for i in range(len(found.tokens))}
    umlaut = {("wordpiece", True): "hauser", ("bpe", True): "häuser"}.get((model, lowercase), "Häuser")
    assert umlaut in words and ("Die" in words) == (not lowercase) and ("die" in words)
    if isinstance(found, WordPiece):
        assert found.normalization == Normalization(lowercase=lowercase, strip_accents=lowercase)


def test_bpe_encodes_every_text_without_loss_but_white_space() -> None:
    training = Training("bpe", lowercase=False)
    found = tokenizer.train(tokenizer.count_words(GERMAN, training), 400, training)
    assert found.unk_id is None and [found.tokens[i] for i in np.flatnonzero(found.is_special)] == [
        "[PAD]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
    ]
    for text in ODD:
        ids = found.build(parse_special=False).encode(text, add_special_tokens=False).ids
        blank_before_each_word = "".join(f" {word}" for word in unicodedata.normalize("NFC", text).split())
        assert found.build(parse_special=False).decode(ids).replace(" ", "") == blank_before_each_word.replace(" ", "")
    encode = found.build(parse_special=True).encode
    assert encode("Häuser\n\n am  Haus").ids == encode(" Häuser am Haus ").ids
    masked = encode("Die [MASK] am Haus", "das Haus")
    assert masked.tokens[:3] == ["[CLS]", "ĠDie", "[MASK]"] and masked.type_ids[-1] == 1


def test_bpe_training_is_deterministic() -> None:
    generator = random.Random(0)
    words = ["".join(generator.choices("abcdeäß中", k=generator.randint(1, 6))) for _ in range(300)]
    training = Training("bpe", lowercase=True)
    texts = [" ".join(generator.choices(words, k=200)) for _ in range(10)]
    first = tokenizer.train(tokenizer.count_words(texts, training), 500, training)
    for _ in range(4):
        generator.shuffle(texts)
        parts = [tokenizer.count_words([text], training) for text in texts]
        assert tokenizer.train(sum(parts[1:], parts[0]), 500, training) == first
    huge = "".join(generator.choices("acgtqz", k=1_000_000))
    assert tokenizer.train(tokenizer.count_words([*texts, huge], training), 500, training) == first


def test_unknown_kind_of_training_is_refused(tmp_path: Path) -> None:
    assert tokenizer.find_training("trained/vocab.txt", lowercase=True) is None
    with pytest.raises(UserError, match=r"data.vocab: found train:unigram, wanted train:wordpiece or train:bpe"):
        tokenizer.find_training("train:unigram", lowercase=True)
    counts = tokenizer.count_words(GERMAN, Training("bpe", lowercase=True))
    with pytest.raises(UserError, match=r"260 tokens in train:bpe, wanted at most model.vocab_size=100"):
        tokenizer.write_vocabulary("train:bpe", counts, size=100, folder=tmp_path)
