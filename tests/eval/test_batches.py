"""Batches of GLUE: every example once, short ones in short batches, which have the same lengths for all seeds."""

from pathlib import Path

import numpy as np
import pytest

from symbert_jax.data import tokenizer
from symbert_jax.data.vocabulary import SPECIAL
from symbert_jax.eval.batches import (
    LENGTHS,
    PADDING_ROW,
    TokenizedSplit,
    prediction_plan,
    steps_per_epoch,
    tokenize,
    training_plan,
)
from symbert_jax.eval.examples import Example

TOKENS = [*SPECIAL, "a", "b", "c", "d"]


def make_split(count: int, longest: int = 100, seed: int = 0) -> TokenizedSplit:
    """Returns `count` examples with 3 to `longest` tokens, at least one with `longest`."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, longest + 1, count).astype(np.int32)
    lengths[0] = longest
    tokens = np.arange(count * longest, dtype=np.int32).reshape(count, longest)
    return TokenizedSplit(tokens, lengths, second_starts=lengths, labels=np.zeros(count, np.float32))


@pytest.fixture
def bert_tokenizer(tmp_path: Path) -> tokenizer.Tokenizer:
    (tmp_path / "vocab.txt").write_text("\n".join(TOKENS))
    return tokenizer.load(tmp_path / "vocab.txt", parse_special=False)


def test_tokenize_frames_sentences_and_pairs_like_bert(bert_tokenizer) -> None:
    split = tokenize(
        bert_tokenizer,
        TOKENS.index("[PAD]"),
        [Example(("a b",), label=1.0), Example(("a", "b c"), label=None)],
        length=16,
    )
    ids = {token: i for i, token in enumerate(TOKENS)}
    cls, sep = ids["[CLS]"], ids["[SEP]"]
    assert split.tokens[0, :4].tolist() == [cls, ids["a"], ids["b"], sep]
    assert split.tokens[1, :6].tolist() == [cls, ids["a"], sep, ids["b"], ids["c"], sep]
    assert split.tokens[1, 6:].tolist() == [ids["[PAD]"]] * 2  # padded to the length of the shortest bucket
    assert (split.lengths.tolist(), split.second_starts.tolist(), split.labels.tolist()) == ([4, 6], [4, 3], [1.0, 0.0])


def test_tokenize_truncates_longer_sentence_and_pads_little(bert_tokenizer) -> None:
    split = tokenize(bert_tokenizer, TOKENS.index("[PAD]"), [Example(("a b", "c " * 20), label=0.0)], length=10)
    assert (split.lengths[0], split.second_starts[0]) == (10, 4)
    assert split.tokens.shape == (1, 10)
    split = tokenize(bert_tokenizer, TOKENS.index("[PAD]"), [Example(("a " * 600,), label=0.0)], length=4096)
    assert split.tokens.shape == (1, 1024)


def test_text_cannot_forge_separator(bert_tokenizer) -> None:
    split = tokenize(bert_tokenizer, TOKENS.index("[PAD]"), [Example(("a [SEP] b",), label=0.0)], length=32)
    assert split.tokens[0].tolist().count(TOKENS.index("[SEP]")) == 1


@pytest.mark.parametrize("count", [1, 15, 16, 1000])
def test_training_plan_contains_every_example_once(count) -> None:
    split = make_split(count)
    plan = training_plan(split, batch_size=16, row_multiple=1, seed=3, epoch=1)
    indices = np.concatenate([planned.indices for planned in plan])
    assert sorted(indices[indices != PADDING_ROW]) == list(range(count)) and len(plan) == steps_per_epoch(
        split, batch_size=16
    )
    assert all(split.lengths[planned.indices].max() <= planned.length for planned in plan)
    # A batch size above the number of examples is reduced to that number.
    assert {len(planned.indices) for planned in plan} == {min(count, 16)}


def test_training_plan_pads_little() -> None:
    split = make_split(2000)
    plan = training_plan(split, batch_size=16, row_multiple=1, seed=0, epoch=1)
    assert sum(planned.length * len(planned.indices) for planned in plan) < 1.25 * split.lengths.sum()
    assert {planned.length for planned in plan} <= {*LENGTHS, 100}


def test_seeds_change_examples_but_not_lengths_of_batches() -> None:
    split = make_split(500)
    plan, other_seed, other_epoch = (
        training_plan(split, batch_size=16, row_multiple=1, seed=seed, epoch=epoch)
        for seed, epoch in ((0, 1), (1, 1), (0, 2))
    )
    assert [planned.length for planned in plan] == [planned.length for planned in other_seed]
    assert [len(planned.indices) for planned in plan] == [len(planned.indices) for planned in other_seed]
    for other in (other_seed, other_epoch):
        assert any(a.indices.tolist() != b.indices.tolist() for a, b in zip(plan, other, strict=True))
    again = training_plan(split, batch_size=16, row_multiple=1, seed=0, epoch=1)
    assert all(a.indices.tolist() == b.indices.tolist() for a, b in zip(plan, again, strict=True))


def test_padding_rows_fill_batches_with_weight_zero() -> None:
    split = make_split(21)
    plan = training_plan(split, batch_size=6, row_multiple=4, seed=0, epoch=1)
    assert all(len(planned.indices) % 4 == 0 for planned in plan)
    weights = np.concatenate([split.batch(planned).weights for planned in plan])
    assert weights.sum() == 21
    assert sum((planned.indices == PADDING_ROW).sum() for planned in plan) == len(weights) - 21


def test_prediction_plan_contains_every_example_once() -> None:
    split = make_split(201)
    plan = prediction_plan(split, batch_size=16)
    indices = np.concatenate([planned.indices for planned in plan])
    assert sorted(indices[indices != PADDING_ROW]) == list(range(201))
    assert {len(planned.indices) for planned in plan} == {16} and len(plan) == 13  # only the last is not full
    assert all(split.lengths[planned.indices].max() <= planned.length for planned in plan)


def test_fingerprint_depends_on_labels_and_tokens() -> None:
    split, same, other_labels, other_tokens = (make_split(5) for _ in range(4))
    other_labels.labels[2] = 1
    other_tokens.tokens[2, 0] += 1
    assert split.fingerprint == same.fingerprint
    assert len({split.fingerprint, other_labels.fingerprint, other_tokens.fingerprint}) == 3
