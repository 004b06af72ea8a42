"""Masks follow the fields of the config, and depend on (seed, row, epoch, mask rate) alone."""

import dataclasses

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from symbert_jax.config import Config, DataConfig, TrainConfig
from symbert_jax.data.masking import Masking, mask_rate, max_train_predictions, max_validation_predictions
from symbert_jax.data.tokenizer import Normalization, WordPiece
from symbert_jax.data.vocabulary import SPECIAL
from symbert_jax.data.whole_words import choose_words, find_spans, find_words

VOCABULARY = (*SPECIAL, *(f"w{i}" for i in range(1500)), *(f"##w{i}" for i in range(500)))
TOKENIZER = WordPiece(VOCABULARY, Normalization())
ORDINARY = len(SPECIAL)  # the first ordinary id
MASK = VOCABULARY.index("[MASK]")


def random_rows(count: int, length: int, seed: int = 0) -> np.ndarray:
    """Returns rows [CLS] tokens [SEP] tokens [SEP], with the inner [SEP] at a random position."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(ORDINARY, len(VOCABULARY), (count, length)).astype(np.uint16)
    tokens[np.arange(count), rng.integers(1, length - 1, count)] = VOCABULARY.index("[SEP]")
    tokens[:, 0], tokens[:, -1] = VOCABULARY.index("[CLS]"), VOCABULARY.index("[SEP]")
    return tokens


def mask(tokens: np.ndarray, rate: float = 0.15, seed: int = 0, epoch: int = 0, **fields):
    row_indices = np.arange(len(tokens))
    masking = Masking(TOKENIZER, tokens.shape[1], rate, seed, **fields)
    return masking(tokens, row_indices, np.full_like(row_indices, epoch))


@settings(max_examples=50, deadline=None)
@example(length=11, rate=0.75, seed=0, unit="token")  # M = 16 is larger than T = 11
@example(length=11, rate=0.75, seed=0, unit="span")
@given(
    length=st.integers(8, 300),
    rate=st.floats(0.01, 0.9),
    seed=st.integers(0, 2**31),
    unit=st.sampled_from(["token", "word", "span"]),
)
def test_masking_predicts_the_given_fraction_of_ordinary_tokens(length: int, rate: float, seed: int, unit: str) -> None:
    tokens = random_rows(count=5, length=length, seed=seed % 1000)
    batch = mask(tokens, rate, seed, unit=unit)
    predicted, wanted = batch.weights.sum(axis=1), np.rint(rate * (tokens >= ORDINARY).sum(axis=1))
    assert batch.positions.shape[1] % 8 == 0
    words = find_words(TOKENIZER.is_special[tokens], TOKENIZER.continues_word[tokens])
    for i, row in enumerate(tokens):
        used = batch.weights[i] == 1
        positions = batch.positions[i, used]
        assert len(set(positions.tolist())) == len(positions)
        assert (row[positions] >= ORDINARY).all(), "a special token is never predicted"
        np.testing.assert_array_equal(batch.targets[i, used], row[positions])
        untouched = np.setdiff1d(np.arange(length), positions)
        np.testing.assert_array_equal(batch.tokens[i, untouched], row[untouched])
        if unit == "token":
            assert predicted[i] == wanted[i]
        else:
            others = set(words[i, untouched].tolist()) - {-1}
            assert not others & set(words[i, positions].tolist()), "no word is predicted in part"
            lengths = [(words[i] == word).sum() for word in others]
            assert predicted[i] <= wanted[i] and min(lengths, default=length) > wanted[i] - predicted[i]


@pytest.mark.parametrize("split", [(0.8, 0.1, 0.1), (1.0, 0.0, 0.0), (0.3, 0.2, 0.5)])
@pytest.mark.parametrize("unit", ["token", "span"])
def test_tokens_become_mask_or_random_or_stay_as_the_split_says(split: tuple[float, ...], unit: str) -> None:
    tokens = random_rows(count=2000, length=128)
    batch = mask(tokens, split=split, unit=unit)
    used = batch.weights == 1
    shown = np.take_along_axis(batch.tokens, batch.positions, axis=1)[used]
    target = batch.targets[used]
    assert used.sum() == round(0.15 * 125) * 2000  # 125 tokens of a row are not special
    # 38,000 draws, or 9,000 of spans: four standard deviations are below 0.01, or 0.02
    tolerance = 0.01 if unit == "token" else 0.025
    assert (shown == MASK).mean() == pytest.approx(split[0], abs=tolerance)
    assert (shown == target).mean() == pytest.approx(split[2], abs=tolerance)
    random = shown[(shown != MASK) & (shown != target)]
    assert (random >= ORDINARY).all()
    counts = np.bincount(random - ORDINARY, minlength=2000)
    assert counts.max() < 12 + split[1] * 60, "random tokens are spread over the vocabulary"
    per_position = np.bincount(batch.positions[used], minlength=128)[1:-1]
    assert per_position.min() > 0.75 * per_position.mean() and per_position.max() < 1.25 * per_position.mean()


def test_masks_depend_on_seed_row_and_epoch_alone() -> None:
    for unit in ("token", "word", "span"):
        tokens = np.repeat(random_rows(count=1, length=128), 6, axis=0)
        masking = Masking(TOKENIZER, length=128, rate=0.15, seed=3, unit=unit)
        batch = masking(tokens, row_indices=np.array([7, 7, 8, 7, 8, 8]), epochs=np.array([0, 0, 0, 1, 1, 0]))
        same = {(i, j) for i in range(6) for j in range(6) if (batch.tokens[i] == batch.tokens[j]).all() and i < j}
        assert same == {(0, 1), (2, 5)}
        alone = masking(tokens[:1], row_indices=np.array([8]), epochs=np.array([1]))
        np.testing.assert_array_equal(alone.tokens[0], batch.tokens[4])
        other = dataclasses.replace(masking, seed=4)(tokens[:1], row_indices=np.array([8]), epochs=np.array([1]))
        assert (other.tokens != alone.tokens).any()


@pytest.mark.parametrize(("length", "max_predictions"), [(512, 80), (128, 24), (32, 8)])
def test_max_predictions_is_a_multiple_of_8(length: int, max_predictions: int) -> None:
    assert Masking(TOKENIZER, length, rate=0.15, seed=0).max_predictions == max_predictions


def test_mask_rate_changes_linearly_and_max_predictions_are_those_of_the_largest() -> None:
    config = Config(data=DataConfig(mask_rate=0.1, final_mask_rate=0.3), train=TrainConfig(steps=100))
    assert [mask_rate(config, step) for step in (0, 50, 100)] == pytest.approx([0.1, 0.2, 0.3])
    assert mask_rate(Config(), 12345) == 0.15
    assert (max_train_predictions(config), max_validation_predictions(config)) == (160, 80)  # of 512 tokens
    tokens, none = random_rows(count=4, length=128), np.zeros(4, np.int64)
    masking = Masking(TOKENIZER, length=128, rate=0.3, seed=0)
    batches = {rate: masking(tokens, none, none, rate) for rate in (0.15, 0.3)}
    assert {rate: batch.weights.sum() / 4 for rate, batch in batches.items()} == {0.15: 19, 0.3: 38}
    assert len({batch.positions.shape for batch in batches.values()}) == 1
    alone = mask(tokens[:1], rate=0.15)  # other M, same masks
    np.testing.assert_array_equal(batches[0.15].positions[0, :19], alone.positions[0, :19])


def words_of(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the words of the tokens of a text, and which tokens are special."""
    tokens = np.array([[VOCABULARY.index(token) for token in text.split()]])
    is_special = TOKENIZER.is_special[tokens]
    return find_words(is_special, TOKENIZER.continues_word[tokens]), is_special


def test_special_token_ends_a_word_and_a_span() -> None:
    """A row may start in the middle of a word; [UNK] and [PAD] belong to no word."""
    words, is_special = words_of("[CLS] ##w1 w2 ##w3 ##w4 [SEP] ##w5 w6 [UNK] ##w7 [SEP] [PAD] [PAD]")
    assert words.tolist() == [[-1, 0, 1, 1, 1, -1, 2, 3, -1, 4, -1, -1, -1]]
    bits = np.full((1, 13), 0xFFFF, np.uint64)  # every span has the largest length
    assert find_spans(bits, words, is_special)[0, :5].tolist() == [0, 0, 1, 1, 2]


def test_span_lengths_are_geometric_with_at_most_10_words() -> None:
    words = np.tile(np.arange(2000), (200, 1))
    bits = np.random.default_rng(0).integers(0, 2**64, words.shape, np.uint64)
    spans = find_spans(bits, words, np.zeros(words.shape, bool))
    lengths = np.concatenate([np.bincount(row)[:-1] for row in spans])  # without the last, which the row cuts
    expected = 0.2 * 0.8 ** np.arange(10) / (1 - 0.8**10)
    np.testing.assert_allclose(np.bincount(lengths)[1:] / len(lengths), expected, atol=0.005)  # of 100,000 spans


def test_words_are_taken_in_random_order_unless_they_exceed_the_count() -> None:
    """Compares with one loop over the words of each row, in their order by random numbers."""
    rng = np.random.default_rng(0)
    tokens = random_rows(count=50, length=96)
    is_special = TOKENIZER.is_special[tokens]
    words = find_words(is_special, TOKENIZER.continues_word[tokens])
    bits = rng.integers(0, 2**64, tokens.shape, np.uint64)
    counts = rng.integers(0, 60, len(tokens))
    for spans in (None, find_spans(bits, words, is_special)):
        chosen = choose_words(bits, words, spans, counts)
        for i in range(len(tokens)):
            left, expected = counts[i], np.zeros(96, bool)
            unit = np.arange(96) if spans is None else spans[i]
            for word in sorted(range(words[i].max() + 1), key=lambda word: (bits[i, unit[word]] >> 16, word)):
                length = (words[i] == word).sum()
                if length <= left:
                    expected |= words[i] == word
                    left -= length
            np.testing.assert_array_equal(chosen[i], expected)


def test_span_is_replaced_as_one() -> None:
    """Of the tokens of a span, [MASK] replaces all or none."""
    tokens = random_rows(count=200, length=128)
    batch = mask(tokens, rate=0.3, split=(0.5, 0.0, 0.5), unit="span")
    is_predicted, is_mask = np.zeros(tokens.shape, bool), batch.tokens == MASK
    np.put_along_axis(is_predicted, batch.positions, batch.weights == 1, axis=1)
    neighbours = is_predicted[:, 1:-2] & is_predicted[:, 2:-1]
    changes = (is_mask[:, 1:-2] != is_mask[:, 2:-1])[neighbours].mean()
    assert changes < 0.2  # where two spans meet; 0.5 if every token were replaced alone
