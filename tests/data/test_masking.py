"""Masks follow BERT's rates and depend on (seed, row, epoch) alone."""

import dataclasses

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from symbert_jax.data.masking import Masking
from symbert_jax.data.vocabulary import SPECIAL

VOCABULARY = [*SPECIAL, *(f"w{i}" for i in range(2000))]
ORDINARY = len(SPECIAL)  # the first ordinary id
MASK = VOCABULARY.index("[MASK]")


def random_rows(count: int, length: int, seed: int = 0) -> np.ndarray:
    """Returns rows [CLS] tokens [SEP] tokens [SEP], with the inner [SEP] at a random position."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(ORDINARY, len(VOCABULARY), (count, length)).astype(np.uint16)
    tokens[np.arange(count), rng.integers(1, length - 1, count)] = VOCABULARY.index("[SEP]")
    tokens[:, 0], tokens[:, -1] = VOCABULARY.index("[CLS]"), VOCABULARY.index("[SEP]")
    return tokens


def mask(tokens: np.ndarray, rate: float = 0.15, seed: int = 0, epoch: int = 0):
    row_indices = np.arange(len(tokens))
    return Masking(VOCABULARY, tokens.shape[1], rate, seed)(tokens, row_indices, np.full_like(row_indices, epoch))


@settings(max_examples=50, deadline=None)
@example(length=11, rate=0.75, seed=0)  # M = 16 is larger than T = 11
@given(length=st.integers(8, 300), rate=st.floats(0.01, 0.9), seed=st.integers(0, 2**31))
def test_masking_predicts_the_given_fraction_of_ordinary_tokens(length: int, rate: float, seed: int) -> None:
    tokens = random_rows(count=5, length=length, seed=seed % 1000)
    batch = mask(tokens, rate, seed)
    ordinary = (tokens >= ORDINARY).sum(axis=1)
    np.testing.assert_array_equal(batch.weights.sum(axis=1), np.rint(rate * ordinary))
    assert batch.positions.shape[1] % 8 == 0
    for i, row in enumerate(tokens):
        used = batch.weights[i] == 1
        positions = batch.positions[i, used]
        assert len(set(positions.tolist())) == len(positions)
        assert (row[positions] >= ORDINARY).all(), "a special token is never predicted"
        np.testing.assert_array_equal(batch.targets[i, used], row[positions])
        untouched = np.setdiff1d(np.arange(length), positions)
        np.testing.assert_array_equal(batch.tokens[i, untouched], row[untouched])


def test_80_percent_become_mask_10_random_and_10_stay() -> None:
    tokens = random_rows(count=2000, length=128)
    batch = mask(tokens)
    used = batch.weights == 1
    shown = np.take_along_axis(batch.tokens, batch.positions, axis=1)[used]
    target = batch.targets[used]
    assert used.sum() == round(0.15 * 125) * 2000  # 125 tokens of a row are not special
    # 38,000 draws: four standard deviations are below 0.01
    assert (shown == MASK).mean() == pytest.approx(0.8, abs=0.01)
    assert (shown == target).mean() == pytest.approx(0.1, abs=0.01)
    random = shown[(shown != MASK) & (shown != target)]
    assert len(random) / used.sum() == pytest.approx(0.1, abs=0.01)
    assert (random >= ORDINARY).all()
    counts = np.bincount(random - ORDINARY, minlength=2000)
    assert counts.max() < 12, "random tokens are spread over the vocabulary: 1.9 times each on average"
    per_position = np.bincount(batch.positions[used], minlength=128)[1:-1]
    assert per_position.min() > 0.75 * per_position.mean() and per_position.max() < 1.25 * per_position.mean()


def test_masks_depend_on_seed_row_and_epoch_alone() -> None:
    tokens = np.repeat(random_rows(count=1, length=128), 6, axis=0)
    masking = Masking(VOCABULARY, length=128, rate=0.15, seed=3)
    batch = masking(tokens, row_indices=np.array([7, 7, 8, 7, 8, 8]), epochs=np.array([0, 0, 0, 1, 1, 0]))
    same = {(i, j) for i in range(6) for j in range(6) if (batch.tokens[i] == batch.tokens[j]).all() and i < j}
    assert same == {(0, 1), (2, 5)}
    alone = masking(tokens[:1], row_indices=np.array([8]), epochs=np.array([1]))
    np.testing.assert_array_equal(alone.tokens[0], batch.tokens[4])
    other = dataclasses.replace(masking, seed=4)(tokens[:1], row_indices=np.array([8]), epochs=np.array([1]))
    assert (other.tokens != alone.tokens).any()


@pytest.mark.parametrize(("length", "max_predictions"), [(512, 80), (128, 24), (32, 8)])
def test_max_predictions_is_a_multiple_of_8(length: int, max_predictions: int) -> None:
    assert Masking(VOCABULARY, length, rate=0.15, seed=0).max_predictions == max_predictions
