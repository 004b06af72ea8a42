"""The tokenizer encodes as the library's BERT tokenizer does; vocabularies are found, trained and refused."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import BertWordPieceTokenizer, Tokenizer

from symbert_jax.data import tokenizer
from symbert_jax.data.tokenizer import JsonTokenizer, Normalization, Roles, WordPiece
from symbert_jax.data.vocabulary import SPECIAL
from symbert_jax.errors import UserError
from symbert_jax.storage import sha256

WORDS = "the The un ##able ##s want \u00e9 e 中 ! [ ] mask ##k \u03c3 x ##x i"
PARTS = (
    "The unable WANTS e\u0301 \u00e9 \u00c9 中国 \u03a3\u0391\u03a3 \u0130 ß \ufb01 don't ... $ 👍🏽 שָׁלוֹם "
    f"mask {'x' * 100} {'x' * 101} \u200b \x00 \ufffd \t \r\n \n \u2028 \u3000 \xa0"
)
UNUSUAL_WORDS = st.lists(st.sampled_from(PARTS.split(" ")) | st.text(max_size=5))


@pytest.fixture(scope="module")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The vocab.txt of an uncased tokenizer."""
    return write_tokens(
        tmp_path_factory.mktemp("vocab") / "vocab.txt", [*SPECIAL, *WORDS.replace("The ", "").split(" ")]
    )


CASED = Normalization(lowercase=False, strip_accents=False)
UNCASED = WordPiece((*SPECIAL, *WORDS.replace("The ", "").split(" ")), Normalization())


def write_tokens(path: Path, tokens: list[str]) -> Path:
    path.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    return path


# Some of the normalizations that a tokenizer can have.
NORMALIZATIONS = (
    Normalization(),
    CASED,
    Normalization(strip_accents=False),
    CASED._replace(handle_chinese_chars=False),
)


@pytest.fixture(scope="module")
def tokenizer_pairs(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[Normalization, tuple[Tokenizer, BertWordPieceTokenizer]]:
    """By normalization, the tokenizer of a corpus prepared with a tokenizer.json, and the library's own tokenizer."""
    found = {}
    for normalization in NORMALIZATIONS:
        folder = tmp_path_factory.mktemp("normalization")
        theirs = BertWordPieceTokenizer(
            str(write_tokens(folder / "words.txt", [*SPECIAL, *WORDS.split(" ")])),
            lowercase=normalization.lowercase,
            strip_accents=normalization.strip_accents,
            handle_chinese_chars=normalization.handle_chinese_chars,
        )
        theirs.save(str(folder / "tokenizer.json"))
        (folder / "corpus").mkdir()
        tokenizer.write_vocabulary(f"{folder}/tokenizer.json", counts={}, size=100, folder=folder / "corpus")
        found[normalization] = tokenizer.load(folder / "corpus" / "vocab.txt", parse_special=True), theirs
    return found


@given(
    normalization=st.sampled_from(NORMALIZATIONS),
    words=UNUSUAL_WORDS,
    separator=st.sampled_from(["", " "]),
    has_mask=st.booleans(),
)
def test_tokenizer_encodes_as_bert_does(
    tokenizer_pairs: dict[Normalization, tuple[Tokenizer, BertWordPieceTokenizer]],
    normalization: Normalization,
    words: list[str],
    separator: str,
    has_mask: bool,
) -> None:
    text = separator.join([*words, "[MASK]", "i"] if has_mask else words)
    ours, theirs = tokenizer_pairs[normalization]
    assert ours.encode(text).ids == theirs.encode(text).ids
    assert ours.encode(text, "want").type_ids == theirs.encode(text, "want").type_ids


def test_corpus_cannot_forge_special_tokens(vocab: Path) -> None:
    text = "the [MASK] [SEP]"
    prompt = tokenizer.load(vocab, parse_special=True).encode(text, add_special_tokens=False).tokens
    corpus = tokenizer.load(vocab, parse_special=False).encode(text, add_special_tokens=False).tokens
    assert prompt == ["the", "[MASK]", "[SEP]"]
    assert corpus == ["the", "[", "mask", "]", "[", "[UNK]", "]"]


def test_special_ids_are_those_of_the_vocabulary(vocab: Path) -> None:
    assert tokenizer.read(vocab).roles == Roles(cls=2, sep=3, pad=0, mask=4, unk=1)


def texts(seed: int) -> list[str]:
    """Returns 20 texts of 50 words each, which are drawn from 200 random words."""
    generator = random.Random(seed)
    words = ["".join(generator.choices("abcdefghé中ς", k=generator.randint(1, 6))) for _ in range(200)]
    return [" ".join(generator.choices(words, k=50)) for _ in range(20)]


def test_training_is_deterministic() -> None:
    counts = tokenizer.count_words(texts(seed=0))
    orders = [counts, dict(reversed(counts.items()))]
    vocabularies = [tokenizer.train(orders[i % 2], size=200) for i in range(5)]
    assert all(vocabulary == vocabularies[0] for vocabulary in vocabularies)
    assert vocabularies[0] != tokenizer.train(tokenizer.count_words(texts(seed=1)), size=200)


def test_training_prefers_frequent_words() -> None:
    rare, frequent = (f"{word} " * count for word, count in (("abcd", 2), ("dcba", 50)))
    for text in (rare + frequent, frequent + rare):
        vocabulary = tokenizer.train(tokenizer.count_words([text]), size=64).tokens
        assert vocabulary.index("dcba") < vocabulary.index("abcd")


def test_trained_vocabulary_encodes_its_texts_without_unk(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    tokenizer.write_vocabulary("train", tokenizer.count_words(texts(seed=0)), size=200, folder=tmp_path)
    trained = tokenizer.load(path, parse_special=False)
    assert trained.get_vocab_size() == 200
    assert path.read_text(encoding="utf-8").splitlines()[:5] == list(SPECIAL)
    assert "[UNK]" not in trained.encode(" ".join(texts(seed=0)), add_special_tokens=False).tokens


def test_write_vocabulary_copies_every_byte(vocab: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    tokenizer.write_vocabulary(str(vocab), counts={}, size=100, folder=tmp_path / "copy")
    assert (tmp_path / "copy" / "vocab.txt").read_bytes() == vocab.read_bytes()
    assert tokenizer.read(vocab).fingerprint() == sha256(vocab)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: data.replace(b"\n", b"\r"),
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: data.removesuffix(b"\n"),
        lambda data: data + b"\n\n\r\n",
    ],
)
def test_vocabulary_strips_line_ends_and_byte_order_mark(change: Callable, vocab: Path, tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes(change(vocab.read_bytes()))
    assert tokenizer.read(path) == tokenizer.read(vocab)


def test_missing_id_shifts_no_other_token(tmp_path: Path) -> None:
    """Id 6 has an empty line in the vocab.txt and no token in the tokenizer.json."""
    tokens = [*SPECIAL, "a", "", "b", "c"]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens))
    whole = WordPiece((*SPECIAL, "a", "x", "b", "c"), CASED).build(parse_special=True)
    parsed = json.loads(whole.to_str())
    del parsed["model"]["vocab"]["x"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(parsed))
    found = tokenizer.read(tmp_path)
    assert found == WordPiece((*SPECIAL, "a", "[unused-hole-6]", "b", "c"), CASED)
    tokenizer.write(found, tmp_path)
    assert (tmp_path / "vocab.txt").read_text().split("\n").index("b") == 7
    encode = tokenizer.load(tmp_path / "vocab.txt", parse_special=True).encode
    assert encode("b [unused-hole-6]", add_special_tokens=False).ids[0] == 7
    assert 6 not in encode("[unused-hole-6]").ids


def test_settings_beside_vocabulary_set_normalization(vocab: Path, tmp_path: Path) -> None:
    path = write_tokens(tmp_path / "vocab.txt", [*SPECIAL, *WORDS.split(" ")])
    with pytest.raises(UserError, match=r"1 tokens with capitals in .*vocab.txt, such as 'The', .*do_lower_case"):
        tokenizer.read(path)
    for settings, wanted in (
        ({"do_lower_case": False}, CASED),
        ({"do_lower_case": True, "strip_accents": False}, Normalization(strip_accents=False)),
        ({"do_lower_case": True, "tokenize_chinese_chars": False}, Normalization(handle_chinese_chars=False)),
        ({"do_lower_case": True}, Normalization()),
    ):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"strip_accents": None} | settings))
        found = tokenizer.read(path)
        assert found.normalization == wanted and tokenizer.read(tmp_path) == found
        (tmp_path / "copy").mkdir(exist_ok=True)
        tokenizer.write(found, tmp_path / "copy")
        assert tokenizer.read(tmp_path / "copy" / "vocab.txt") == found
    tokenizer.write(tokenizer.read(vocab), tmp_path / "copy")
    assert not (tmp_path / "copy" / "tokenizer.json").exists(), "the vocab.txt suffices"
    fingerprints = {WordPiece(found.tokens, normalization).fingerprint() for normalization in NORMALIZATIONS}
    assert len(fingerprints) == len(NORMALIZATIONS)


def set_in(*path: str, value: object) -> Callable[[dict], object]:
    """Returns a function that sets a value deep in a parsed JSON file."""

    def change(parsed: dict) -> None:
        for key in path[:-1]:
            parsed = parsed[key]
        parsed[path[-1]] = value

    return change


def add_token(**token: object) -> Callable[[dict], object]:
    """Returns a function that appends a token to the added tokens of a parsed tokenizer.json."""
    return lambda parsed: parsed["added_tokens"].append(parsed["added_tokens"][0] | token)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            set_in("model", "vocab", value=[]),
            "tokenizer.json: .*, wanted a tokenizer that the package tokenizers reads",
        ),
        (set_in("model", "vocab", "the", value=7), "id 7 for .*'the'.*, wanted a different id for each token"),
        (set_in("model", "unk_token", value="nowhere"), r"unk_token 'nowhere' in .*, wanted a token of the vocabulary"),
        (
            set_in("model", "continuing_subword_prefix", value=""),
            "pre_tokenizer BertPreTokenizer in .*, wanted one whose",
        ),
        (set_in("post_processor", value=None), "post_processor none in .*, wanted one that puts a text between"),
        (add_token(id=90, content="<e1>"), "id 90 of '<e1>' in the added tokens of .*, wanted 22, the next free id"),
    ],
)
def test_unusable_tokenizer_json_is_refused(change: Callable, message: str, tmp_path: Path) -> None:
    parsed = json.loads(UNCASED.build(parse_special=True).to_str())
    change(parsed)
    (tmp_path / "tokenizer.json").write_text(json.dumps(parsed))
    with pytest.raises(UserError, match=f"^data.vocab: found .*{message}"):
        tokenizer.read(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        set_in("model", "unk_token", value="the"),
        set_in("model", "max_input_chars_per_word", value=200),
        set_in("model", "continuing_subword_prefix", value="@@"),
        set_in("model", "vocab", "a b", value=22),
        set_in("normalizer", value=None),
        set_in("normalizer", value={"type": "Lowercase"}),
        set_in("pre_tokenizer", value={"type": "Whitespace"}),
        add_token(id=22, content="<e1>"),
        add_token(id=5, content="the"),
        lambda parsed: parsed["added_tokens"][4].update(single_word=True),
        lambda parsed: parsed["added_tokens"][4].update(normalized=True),
    ],
)
def test_tokenizer_that_differs_from_berts_keeps_its_tokenizer_json(change: Callable, tmp_path: Path) -> None:
    parsed = json.loads(UNCASED.build(parse_special=True).to_str())
    (tmp_path / "tokenizer.json").write_text(json.dumps(parsed | {"added_tokens": []}))
    assert tokenizer.read(tmp_path) == UNCASED, "the special tokens need not be added"
    change(parsed)
    (tmp_path / "tokenizer.json").write_text(json.dumps(parsed))
    found = tokenizer.read(tmp_path)
    assert isinstance(found, JsonTokenizer) and found.mask_id == 4
    library, text = Tokenizer.from_str(json.dumps(parsed)), f"The UN {'x' * 150} a [MASK] [mask] o[MASK]f"
    assert found.build(parse_special=True).encode(text).ids == library.encode(text).ids


@pytest.mark.parametrize(
    "file, content, message",
    [
        (
            "tokenizer_config.json",
            {"do_lower_case": False},
            "lowercase False in .*, wanted True, as in .*tokenizer.json",
        ),
        (
            "tokenizer_config.json",
            {"strip_accents": False},
            "strip_accents False in .*, wanted True, as in .*; make the",
        ),
        ("tokenizer_config.json", {"do_lower_case": "no"}, "do_lower_case 'no' in .*, wanted true or false"),
        ("tokenizer_config.json", {"do_basic_tokenize": False}, "do_basic_tokenize False in .*, wanted True"),
        ("tokenizer_config.json", {"never_split": ["x"]}, r"never_split \['x'\] in .*, wanted none"),
        (
            "tokenizer_config.json",
            {"pad_token": {"content": "<pad>"}},
            "pad_token '<pad>' in .*, wanted a token of .*json",
        ),
        ("tokenizer_config.json", {"added_tokens_decoder": {"9": {"content": "<e>"}}}, "added token '<e>' in .*"),
        ("tokenizer_config.json", [], "tokenizer_config.json: a JSON list, wanted a JSON object"),
        ("special_tokens_map.json", {"mask_token": "<mask>"}, "mask_token '<mask>' in .*, wanted a token of .*json"),
        ("added_tokens.json", {"<e>": 99}, "added token '<e>' in .*added_tokens.json"),
        ("vocab.txt", [*SPECIAL, "the", "x"], "token 6 is 'x' in .*vocab.txt, wanted 'un', as in .*tokenizer.json"),
        ("vocab.txt", [*SPECIAL, "the"], "token 6 is None in .*vocab.txt, wanted 'un', as in .*tokenizer.json"),
    ],
)
def test_files_that_contradict_tokenizer_json_are_refused(
    file: str, content: object, message: str, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.json").write_text(UNCASED.build(parse_special=True).to_str())
    (tmp_path / file).write_text("\n".join(content) if file == "vocab.txt" else json.dumps(content))
    with pytest.raises(UserError, match=f"^data.vocab: found .*{message}"):
        tokenizer.read(tmp_path)
    assert tokenizer.read(tmp_path / "tokenizer.json") == UNCASED, "a tokenizer.json is read alone"


def test_vocabulary_of_another_tokenizer_class_is_refused(vocab: Path, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(vocab.read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertJapaneseTokenizer"}')
    with pytest.raises(UserError, match=r"tokenizer_class 'BertJapaneseTokenizer' in .*, wanted BertTokenizer"):
        tokenizer.read(tmp_path)


def test_vocabulary_is_downloaded_from_the_hub(vocab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: asked.append(name) or str(vocab.parent))
    tokenizer.write_vocabulary("hf:some/bert", counts={}, size=100, folder=tmp_path)
    assert asked == ["some/bert"]
    assert (tmp_path / "vocab.txt").read_bytes() == vocab.read_bytes()


@pytest.mark.parametrize("error", ["LocalEntryNotFoundError", "HFValidationError", "OfflineModeIsEnabled"])
def test_error_of_the_hub_is_a_user_error(error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: str, **__: object) -> None:
        raise getattr(huggingface_hub.errors, error)("no connection\nand a long story")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UserError, match=r"data.vocab: found hf:some/bert \(no connection\), wanted"):
        tokenizer.write_vocabulary("hf:some/bert", counts={}, size=100, folder=tmp_path)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\nthe\n", r"no \[MASK\] in .*vocab.txt, wanted all of"),
        (
            b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\na\nthe\n",
            r"'the' more than once in .*vocab.txt, wanted every token once",
        ),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n\xff\n", r"vocab.txt: byte 31 is not UTF-8"),
        (
            b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n",
            r"7 tokens in .*vocab.txt, wanted at most model.vocab_size=6",
        ),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe 12\n", r"a token 'the 12' in .*vocab.txt, wanted tokens without"),
        (b"version https://git-lfs.github.com/spec/v1\n", r"vocab.txt, which is a Git LFS pointer"),
    ],
)
def test_unusable_vocabulary_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"^data.vocab: found .*{message}"):
        tokenizer.write_vocabulary(str(path), counts={}, size=6, folder=tmp_path / "copy")


def test_missing_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.vocab: found no file .*none.txt, wanted a vocab.txt, a tokenizer.json"):
        tokenizer.write_vocabulary(str(tmp_path / "none.txt"), counts={}, size=6, folder=tmp_path / "copy")
    with pytest.raises(UserError, match=r"data.vocab: found no file .*none.txt"):
        tokenizer.load(tmp_path / "none.txt", parse_special=True)


def test_training_ignores_words_above_the_length_limit() -> None:
    rng = np.random.default_rng(0)
    letters = np.array(list("acgtqz"))
    # Training on a word of a million letters would take minutes.
    huge = ["".join(rng.choice(letters, size)) for size in (1_000_000, 101)]
    texts = ["the quick brown fox, " * 50, "over the lazy dog " * 50]
    with_huge = tokenizer.count_words([*texts, *huge, f"the {huge[1]} the"])
    assert with_huge == tokenizer.count_words([*texts, "the the"])
    longest = "z" * 100
    counts = tokenizer.count_words([f"{longest} " * 9, f"{'q' * 101} " * 9])
    assert longest in tokenizer.train(counts, size=60 + 2 * len(longest)).tokens
