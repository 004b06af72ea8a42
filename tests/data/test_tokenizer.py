"""Our tokenizer against the library's own BERT pipeline; vocabularies found, trained and refused."""

import random
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import BertWordPieceTokenizer

from symbert_jax.data import tokenizer
from symbert_jax.data.vocabulary import SPECIAL
from symbert_jax.errors import UserError
from symbert_jax.storage import sha256

WORDS = "the un ##able ##s want \u00e9 e 中 ! [ ] mask ##k \u03c3 x ##x i"
PARTS = (
    "The unable WANTS e\u0301 \u00e9 \u00c9 中国 \u03a3\u0391\u03a3 \u0130 ß \ufb01 don't ... $ 👍🏽 שָׁלוֹם "
    f"mask {'x' * 100} {'x' * 101} \u200b \x00 \ufffd \t \r\n \n \u2028 \u3000 \xa0"
)
ODD = st.lists(st.sampled_from(PARTS.split(" ")) | st.text(max_size=5))


@pytest.fixture(scope="module")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("vocab") / "vocab.txt", [*SPECIAL, *WORDS.split(" ")])


def write(path: Path, tokens: list[str]) -> Path:
    path.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    return path


@given(words=ODD, separator=st.sampled_from(["", " "]), special=st.booleans())
def test_encodes_as_bert_does(vocab: Path, words: list[str], separator: str, special: bool) -> None:
    text = separator.join([*words, "[MASK]", "i"] if special else words)
    theirs = BertWordPieceTokenizer(str(vocab), lowercase=True)
    ours = tokenizer.load(vocab, parse_special=True)
    assert ours.encode(text).ids == theirs.encode(text).ids
    assert ours.encode(text, "want").type_ids == theirs.encode(text, "want").type_ids


def test_a_corpus_cannot_forge_special_tokens(vocab: Path) -> None:
    text = "the [MASK] [SEP]"
    prompt = tokenizer.load(vocab, parse_special=True).encode(text, add_special_tokens=False).tokens
    corpus = tokenizer.load(vocab, parse_special=False).encode(text, add_special_tokens=False).tokens
    assert prompt == ["the", "[MASK]", "[SEP]"]
    assert corpus == ["the", "[", "mask", "]", "[", "[UNK]", "]"]


def test_special_ids(vocab: Path) -> None:
    ids = tokenizer.special_ids(tokenizer.load(vocab, parse_special=True))
    assert ids == {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}


def texts(seed: int) -> list[str]:
    generator = random.Random(seed)
    words = ["".join(generator.choices("abcdefghé中ς", k=generator.randint(1, 6))) for _ in range(200)]
    return [" ".join(generator.choices(words, k=50)) for _ in range(20)]


def test_training_is_deterministic() -> None:
    vocabularies = [tokenizer.train(texts(seed=0), size=200) for _ in range(5)]
    assert all(vocabulary == vocabularies[0] for vocabulary in vocabularies)
    assert vocabularies[0] != tokenizer.train(texts(seed=1), size=200)


def test_training_learns_what_is_frequent() -> None:
    rare, frequent = (f"{word} " * count for word, count in (("abcd", 2), ("dcba", 50)))
    for text in (rare + frequent, frequent + rare):
        vocabulary = tokenizer.train([text], size=64)
        assert vocabulary.index("dcba") < vocabulary.index("abcd")


def test_a_trained_vocabulary_spells_its_texts(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    tokenizer.place("train", iter(texts(seed=0)), 200, path)
    trained = tokenizer.load(path, parse_special=False)
    assert trained.get_vocab_size() == 200
    assert path.read_text(encoding="utf-8").splitlines()[:5] == list(SPECIAL)
    assert "[UNK]" not in trained.encode(" ".join(texts(seed=0)), add_special_tokens=False).tokens


def test_place_copies_a_file_to_the_byte(vocab: Path, tmp_path: Path) -> None:
    tokenizer.place(str(vocab), [], 100, tmp_path / "copy.txt")
    assert sha256(tmp_path / "copy.txt") == sha256(vocab)


def test_windows_line_ends_are_no_part_of_a_token(vocab: Path, tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes(vocab.read_bytes().replace(b"\n", b"\r\n"))
    assert tokenizer.load(path, parse_special=True).get_vocab() == tokenizer.load(vocab, parse_special=True).get_vocab()


def test_a_vocabulary_from_the_hub(vocab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *names: asked.append(names) or str(vocab))
    tokenizer.place("hf:some/bert", [], 100, tmp_path / "vocab.txt")
    assert asked == [("some/bert", "vocab.txt")]
    assert (tmp_path / "vocab.txt").read_bytes() == vocab.read_bytes()


@pytest.mark.parametrize("error", ["LocalEntryNotFoundError", "HFValidationError", "OfflineModeIsEnabled"])
def test_the_hub_out_of_reach(error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*names: str) -> None:
        raise getattr(huggingface_hub.errors, error)("no connection\nand a long story")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(UserError, match=r"data.vocab: found hf:some/bert \(no connection\), wanted"):
        tokenizer.place("hf:some/bert", [], 100, tmp_path / "vocab.txt")


@pytest.mark.parametrize(
    "content, message",
    [
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\nthe\n", r"no \[MASK\] in .*vocab.txt, wanted one line each"),
        (
            b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\na\nthe\n",
            r"'the' twice in .*vocab.txt, wanted every token once",
        ),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n\xff\n", r"vocab.txt: byte 31 is not UTF-8"),
        (
            b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n",
            r"7 tokens in .*vocab.txt, wanted at most model.vocab_size=6",
        ),
    ],
)
def test_a_vocabulary_that_cannot_be_used(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"^data.vocab: found .*{message}"):
        tokenizer.place(str(path), [], 6, tmp_path / "copy.txt")


def test_a_vocabulary_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.vocab: found no file .*none.txt, wanted a vocab.txt, hf:REPOSITORY"):
        tokenizer.place(str(tmp_path / "none.txt"), [], 6, tmp_path / "copy.txt")
    with pytest.raises(UserError, match=r"No such file"):
        tokenizer.load(tmp_path / "none.txt", parse_special=True)


def test_train_leaves_out_words_that_the_encoder_does() -> None:
    rng = np.random.default_rng(0)
    letters = np.array(list("acgtqz"))
    huge = ["".join(rng.choice(letters, size)) for size in (1_000_000, 101)]  # took minutes
    texts = ["the quick brown fox, " * 50, "over the lazy dog " * 50]
    assert tokenizer.train([*texts, *huge, f"the {huge[1]} the"], 60) == tokenizer.train([*texts, "the the"], 60)
    kept = "z" * 100
    assert kept in tokenizer.train([f"{kept} " * 9, f"{'q' * 101} " * 9], 60 + 2 * len(kept))
