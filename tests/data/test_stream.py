"""The batch is a function of (seed, step)."""

import dataclasses

import numpy as np
import pytest

from symbert_jax.config import freeze
from symbert_jax.data.masking import Masking
from symbert_jax.data.stream import Stream, open_stream
from symbert_jax.data.vocabulary import SPECIAL
from symbert_jax.errors import UserError

VOCABULARY = [*SPECIAL, *(f"w{i}" for i in range(1000))]
LENGTH = 16


class FakeRows:
    """Row i carries its number i in its second token."""

    def __init__(self, count: int):
        self.tokens = np.random.default_rng(0).integers(5, 1005, (count, LENGTH)).astype(np.uint16)
        self.tokens[:, 0], self.tokens[:, 1], self.tokens[:, -1] = 2, 5 + np.arange(count), 3

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitems__(self, indices):
        return [{"tokens": self.tokens[index]} for index in indices]


def make(process: int = 0, processes: int = 1, seed: int = 0, rows: int = 50, batch: int = 8) -> Stream:
    masking = Masking(VOCABULARY, LENGTH, 0.15, seed)
    return Stream(FakeRows(rows), FakeRows(21), masking, batch, np.split(np.arange(batch), processes)[process], False)


def same(a, b) -> bool:
    return all((x == y).all() for x, y in zip(a, b, strict=True))


def joined(parts):
    return type(parts[0])(*(np.concatenate(leaves) for leaves in zip(*parts, strict=True)))


@pytest.mark.parametrize("processes", [2, 4])
def test_any_number_of_processes_sees_the_same_rows_and_masks(processes: int) -> None:
    for step in (0, 5, 6, 7, 1000):
        parts = [make(process, processes).batch(step) for process in range(processes)]
        assert parts[0].tokens.shape == (8 // processes, LENGTH)
        assert same(joined(parts), make().batch(step)), step


def test_a_process_may_hold_rows_far_apart() -> None:
    stream = dataclasses.replace(make(), local_rows=np.array([1, 2, 7]))
    for part, whole in (
        (stream.batch(3), make().batch(3)),
        *zip(stream.validation_batches(0), make().validation_batches(0), strict=True),
    ):
        assert same(part, type(whole)(*(leaf[[1, 2, 7]] for leaf in whole)))


def test_the_fingerprint_tells_corpora_apart() -> None:
    found = make().fingerprint()
    assert found == make(process=1, processes=2, seed=1).fingerprint()
    other = make()
    other.train.tokens[25, 3] ^= 1
    reworded = dataclasses.replace(make(), masking=Masking([*VOCABULARY[:-1], "x"], LENGTH, 0.15, 0))
    assert len({found, make(rows=51).fingerprint(), other.fingerprint(), reworded.fingerprint()}) == 4


def test_a_restart_sees_what_an_uninterrupted_run_sees() -> None:
    whole = list(make().batches(0, 20, threads=3))
    rest = list(make().batches(13, 20, threads=1))
    assert len(whole) == 20
    assert all(same(a, b) for a, b in zip(whole[13:], rest, strict=True))


def row_numbers(stream: Stream, start: int, stop: int) -> list[int]:
    """Which rows the stream visits, whatever of them is masked."""
    return [stream.order[place] for place in range(start, stop)]


def test_every_epoch_visits_every_row_once_in_its_own_order() -> None:
    first, second = row_numbers(make(), 0, 50), row_numbers(make(), 50, 100)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert row_numbers(make(seed=1), 0, 50) != first


def test_the_same_row_is_masked_anew_every_epoch() -> None:
    stream = make(rows=8)
    by_row = [
        dict(zip(row_numbers(stream, 8 * epoch, 8 * epoch + 8), stream.batch(epoch).tokens, strict=True))
        for epoch in range(2)
    ]
    assert sum((by_row[0][row] != by_row[1][row]).any() for row in range(8)) >= 7


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_validation_sees_each_row_once_and_pads_with_weight_0(processes: int) -> None:
    parts = [list(make(process, processes, seed=9).validation_batches(0)) for process in range(processes)]
    batches = [joined(shares) for shares in zip(*parts, strict=True)]
    assert [len(batch.tokens) for batch in batches] == [8, 8, 8]
    counted = np.concatenate([batch.weights.sum(axis=1) for batch in batches])
    assert (counted[:21] == 2).all() and (counted[21:] == 0).all()  # round(0.15 * 14) = 2
    again = list(make(seed=1).validation_batches(0))
    assert all(same(a, b) for a, b in zip(batches, again, strict=True)), "masks do not depend on the seed"


def test_a_limited_validation_is_spread_over_the_split() -> None:
    (batch,) = make().validation_batches(1)
    seen = batch.tokens[:, 1].copy()
    hidden = (batch.positions == 1) & (batch.weights == 1)
    seen[hidden.any(axis=1)] = batch.targets[hidden]
    assert (seen - 5).tolist() == [i * 21 // 8 for i in range(8)]


def test_a_corpus_is_opened_with_what_it_may_lack_or_refused_in_one_line(corpus) -> None:
    from configs.tiny import get_config

    config = get_config()
    config.data.dir = str(corpus)
    fits = freeze(config)
    local_rows = np.arange(64)
    stream = open_stream(fits, local_rows)
    rows = [row["tokens"] for row in stream.train.__getitems__(range(len(stream.train)))]
    fewest = int((np.stack(rows) >= len(SPECIAL)).sum(axis=1).min())
    assert stream.may_lack_targets == (round(fits.data.mask_rate * fewest) < 1)
    rare = dataclasses.replace(fits, data=dataclasses.replace(fits.data, mask_rate=0.4 / max(fewest, 1)))
    assert open_stream(rare, local_rows).may_lack_targets
    assert stream.batch(0).tokens.shape == (64, 32)
    small = dataclasses.replace(fits, model=dataclasses.replace(fits.model, vocab_size=256))
    with pytest.raises(UserError, match=r"model.vocab_size: found 256, wanted at least 512"):
        open_stream(small, local_rows)


def test_a_token_beyond_the_vocabulary_is_told(corpus) -> None:
    from configs.tiny import get_config

    config = get_config()
    config.data.dir = str(corpus)
    stream = open_stream(freeze(config), np.arange(64))
    masking = dataclasses.replace(stream.masking, vocabulary=stream.masking.vocabulary[:100])
    with pytest.raises(UserError, match=r"data.dir: found token \d+ in a row, wanted tokens below 100"):
        dataclasses.replace(stream, masking=masking).batch(0)
