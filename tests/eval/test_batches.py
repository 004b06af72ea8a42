"""Batches of GLUE: every example once, short ones in short batches, seeds apart."""

from pathlib import Path

import numpy as np
import pytest

from symbert_jax.data import tokenizer
from symbert_jax.data.vocabulary import SPECIAL
from symbert_jax.eval.batches import (
    FILLER,
    LENGTHS,
    Examples,
    encode,
    prediction_plan,
    steps_per_epoch,
    training_plan,
)
from symbert_jax.eval.examples import Example

WORDS = [*SPECIAL, "a", "b", "c", "d"]


def examples(count: int, longest: int = 100, seed: int = 0) -> Examples:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, longest + 1, count).astype(np.int32)
    lengths[0] = longest
    tokens = np.arange(count * longest, dtype=np.int32).reshape(count, longest)
    return Examples(tokens, lengths, lengths, np.zeros(count, np.float32))


@pytest.fixture
def words(tmp_path: Path) -> tokenizer.Tokenizer:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    return tokenizer.load(tmp_path / "vocab.txt", parse_special=False)


def test_sentences_and_pairs_as_bert_frames_them(words) -> None:
    found = encode(words, [Example(("a b",), 1.0), Example(("a", "b c"), None)], 16)
    ids = {word: i for i, word in enumerate(WORDS)}
    cls, sep = ids["[CLS]"], ids["[SEP]"]
    assert found.tokens[0, :4].tolist() == [cls, ids["a"], ids["b"], sep]
    assert found.tokens[1, :6].tolist() == [cls, ids["a"], sep, ids["b"], ids["c"], sep]
    assert found.tokens[1, 6:].tolist() == [ids["[PAD]"]] * 2  # to the shortest length there is
    assert (found.lengths.tolist(), found.seconds.tolist(), found.labels.tolist()) == ([4, 6], [4, 3], [1.0, 0.0])


def test_the_longer_sentence_is_cut_first(words) -> None:
    found = encode(words, [Example(("a b", "c " * 20), 0.0)], 10)
    assert (found.lengths[0], found.seconds[0]) == (10, 4)
    assert found.tokens.shape == (1, 10)


def test_text_cannot_forge_a_separator(words) -> None:
    assert encode(words, [Example(("a [SEP] b",), 0.0)], 32).tokens[0].tolist().count(WORDS.index("[SEP]")) == 1


@pytest.mark.parametrize("count", [1, 15, 16, 1000])
def test_an_epoch_has_every_example_once_at_a_length_that_holds_it(count) -> None:
    data = examples(count)
    plan = training_plan(data, 16, 1, seed=3, epoch=1)
    rows = np.concatenate([place.rows for place in plan])
    assert sorted(rows[rows != FILLER]) == list(range(count)) and len(plan) == steps_per_epoch(data, 16)
    assert all(data.lengths[place.rows].max() <= place.length for place in plan)
    assert {len(place.rows) for place in plan} == {min(count, 16)}  # a batch above what there is takes no memory


def test_short_examples_do_not_pay_for_long_ones() -> None:
    data = examples(2000)
    padded = sum(place.length * len(place.rows) for place in training_plan(data, 16, 1, 0, 1))
    assert padded < 1.25 * data.lengths.sum()
    assert {place.length for place in training_plan(data, 16, 1, 0, 1)} <= {*LENGTHS, 100}


def test_seeds_differ_in_rows_but_not_in_lengths() -> None:
    data = examples(500)
    first, second, later = (training_plan(data, 16, 1, seed, epoch) for seed, epoch in ((0, 1), (1, 1), (0, 2)))
    assert [place.length for place in first] == [place.length for place in second]
    assert [len(place.rows) for place in first] == [len(place.rows) for place in second]
    for other in (second, later):
        assert any(a.rows.tolist() != b.rows.tolist() for a, b in zip(first, other, strict=True))
    again = training_plan(data, 16, 1, 0, 1)
    assert all(a.rows.tolist() == b.rows.tolist() for a, b in zip(first, again, strict=True))


def test_fillers_make_batches_fit_the_mesh_and_weigh_nothing() -> None:
    data = examples(21)
    plan = training_plan(data, 6, 4, 0, 1)
    assert all(len(place.rows) % 4 == 0 for place in plan)
    weights = np.concatenate([data.batch(place).weights for place in plan])
    assert weights.sum() == 21
    assert sum((place.rows == FILLER).sum() for place in plan) == len(weights) - 21


def test_predictions_see_every_example_once() -> None:
    data = examples(201)
    plan = prediction_plan(data, 16)
    rows = np.concatenate([place.rows for place in plan])
    assert sorted(rows[rows != FILLER]) == list(range(201)) and {len(place.rows) for place in plan} == {16}


def test_the_fingerprint_tells_labels_and_tokens_apart() -> None:
    data, same, labels, tokens = (examples(5) for _ in range(4))
    labels.labels[2] = 1
    tokens.tokens[2, 0] += 1
    assert data.fingerprint == same.fingerprint
    assert len({data.fingerprint, labels.fingerprint, tokens.fingerprint}) == 3
