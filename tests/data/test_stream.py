"""A batch depends on the seed and the step, not on the number of processes or on restarts."""

import dataclasses

import numpy as np
import pytest

from symbert_jax.config import freeze, phases
from symbert_jax.data.corpus import Corpora, Corpus
from symbert_jax.data.masking import Masking
from symbert_jax.data.rows import read_tokens
from symbert_jax.data.stream import Stream, open_stream, open_streams, run_batches
from symbert_jax.data.vocabulary import SPECIAL
from symbert_jax.errors import UserError
from tests.conftest import configure, write_corpus
from tests.data.fake_rows import LENGTH, TOKENIZER, FakeRows


def make_stream(process: int = 0, processes: int = 1, seed: int = 0, rows: int = 50) -> Stream:
    """Returns the stream of one of several processes, which share a batch of 8 rows equally."""
    return Stream(
        train=FakeRows(rows),
        validation=FakeRows(21),
        masking=Masking(TOKENIZER, LENGTH, rate=0.15, seed=seed),
        validation_masking=Masking(TOKENIZER, LENGTH, rate=0.15, seed=0),
        mask_rate=lambda step: 0.15,
        batch_size=8,
        local_row_indices=np.split(np.arange(8), processes)[process],
        may_lack_targets=False,
    )


def is_equal(a, b) -> bool:
    return all((x == y).all() for x, y in zip(a, b, strict=True))


def concatenate(parts):
    """Returns the batch whose rows are those of all `parts`."""
    return type(parts[0])(*(np.concatenate(leaves) for leaves in zip(*parts, strict=True)))


@pytest.mark.parametrize("processes", [2, 4])
def test_batches_do_not_depend_on_the_number_of_processes(processes: int) -> None:
    for step in (0, 5, 6, 7, 1000):
        parts = [make_stream(process, processes).batch(step) for process in range(processes)]
        assert parts[0].tokens.shape == (8 // processes, LENGTH)
        assert is_equal(concatenate(parts), make_stream().batch(step)), step


def test_process_may_hold_rows_that_are_not_adjacent() -> None:
    stream = dataclasses.replace(make_stream(), local_row_indices=np.array([1, 2, 7]))
    for part, whole in (
        (stream.batch(3), make_stream().batch(3)),
        *zip(stream.validation_batches(0), make_stream().validation_batches(0), strict=True),
    ):
        assert is_equal(part, type(whole)(*(leaf[[1, 2, 7]] for leaf in whole)))


def test_restarted_stream_continues_with_the_same_batches() -> None:
    whole = list(make_stream().batches(start=0, stop=20, threads=3))
    rest = list(make_stream().batches(start=13, stop=20, threads=1))
    assert len(whole) == 20
    assert all(is_equal(a, b) for a, b in zip(whole[13:], rest, strict=True))


def test_phases_of_a_corpus_continue_in_its_rows(tmp_path) -> None:
    """Batches of 4, 6 and 8 rows visit each row once in an epoch, whatever the number of processes and restarts."""
    config = configure(
        data={
            "dir": str(write_corpus(tmp_path / "corpus")),
            "batch_warmup": (4, 6),
            "batch_warmup_steps": 4,
            "batch_size": 8,
        },
        train={"steps": 20, "phases": ("8: data.batch_size=12",)},
    )

    def open_part(process: int, processes: int) -> list[Stream]:
        return open_streams(config, Corpora(), lambda rows: np.array_split(np.arange(rows), processes)[process])

    streams = open_part(0, 1)
    batches = list(run_batches(config, streams, 0))
    assert [len(batch.tokens) for batch in batches] == [4] * 2 + [6] * 2 + [12] * 4 + [8] * 12
    row_indices = []
    for phase, stream in zip(phases(config), streams, strict=True):
        end = phase.first_row + len(phase.steps) * stream.batch_size
        row_indices += visited_row_indices(stream, phase.first_row, end)
    assert sorted(row_indices[:64]) == list(range(64)) == sorted(row_indices[64:128])
    whole = concatenate(batches)
    targets = np.where(whole.weights > 0, whole.targets, SPECIAL.index("[CLS]"))  # padding is at position 0
    np.put_along_axis(whole.tokens, whole.positions, targets, axis=1)
    np.testing.assert_array_equal(whole.tokens, read_tokens(streams[0].train, np.array(row_indices)))
    for start in (0, 1, 4, 7, 8, 19):
        assert all(map(is_equal, run_batches(config, streams, start), batches[start:]))
        parts = [next(run_batches(config, open_part(process, 2), start)) for process in range(2)]
        assert is_equal(concatenate(parts), batches[start])


def visited_row_indices(stream: Stream, start: int, stop: int) -> list[int]:
    return [stream.order[index] for index in range(start, stop)]


def test_every_epoch_visits_every_row_once_in_its_own_order() -> None:
    first = visited_row_indices(make_stream(), start=0, stop=50)
    second = visited_row_indices(make_stream(), start=50, stop=100)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert visited_row_indices(make_stream(seed=1), start=0, stop=50) != first


def test_every_epoch_masks_a_row_differently() -> None:
    stream = make_stream(rows=8)
    by_row = [
        dict(zip(visited_row_indices(stream, 8 * epoch, 8 * epoch + 8), stream.batch(epoch).tokens, strict=True))
        for epoch in range(2)
    ]
    assert sum((by_row[0][row] != by_row[1][row]).any() for row in range(8)) >= 7


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_validation_visits_each_row_once_and_pads_with_weight_0(processes: int) -> None:
    parts = [list(make_stream(process, processes, seed=9).validation_batches(0)) for process in range(processes)]
    batches = [concatenate(local_batches) for local_batches in zip(*parts, strict=True)]
    assert [len(batch.tokens) for batch in batches] == [8, 8, 8]
    counted = np.concatenate([batch.weights.sum(axis=1) for batch in batches])
    assert (counted[:21] == 2).all() and (counted[21:] == 0).all()  # round(0.15 * 14) = 2
    again = list(make_stream(seed=1).validation_batches(0))
    assert all(is_equal(a, b) for a, b in zip(batches, again, strict=True)), "masks do not depend on the seed"


def test_limited_validation_is_spread_over_the_split() -> None:
    (batch,) = make_stream().validation_batches(1)
    second = batch.tokens[:, 1].copy()  # 5 + the index of the row, see `FakeRows`
    is_masked = (batch.positions == 1) & (batch.weights == 1)
    second[is_masked.any(axis=1)] = batch.targets[is_masked]
    assert (second - 5).tolist() == [i * 21 // 8 for i in range(8)]


def test_open_stream_checks_corpus_model_and_tokens(corpus) -> None:
    """A model with too few token ids is refused when the stream is opened, a token out of range when it is read."""
    from configs.tiny import get_config

    config = freeze(get_config())
    opened, local_row_indices = Corpus(str(corpus)), np.arange(config.data.batch_size)
    stream = open_stream(config, opened, local_row_indices)
    rows = [row["tokens"] for row in stream.train.__getitems__(range(len(stream.train)))]
    fewest = int((np.stack(rows) >= len(SPECIAL)).sum(axis=1).min())
    assert stream.may_lack_targets == (round(config.data.mask_rate * fewest) < 1)
    # At this rate, the row with the fewest ordinary tokens has round(0.4) = 0 tokens to predict.
    rare = dataclasses.replace(config, data=dataclasses.replace(config.data, mask_rate=0.4 / max(fewest, 1)))
    assert open_stream(rare, opened, local_row_indices).may_lack_targets
    # The words of a row may all have more tokens than it may have targets.
    words = dataclasses.replace(config, data=dataclasses.replace(config.data, mask_unit="word"))
    assert open_stream(words, opened, local_row_indices).may_lack_targets
    assert stream.batch(0).tokens.shape == (64, 32)
    data = dataclasses.replace(
        config.data, mask_rate=0.2, final_mask_rate=0.4, mask_unit="word", mask_split=(1.0, 0.0, 0.0)
    )
    scheduled = open_stream(dataclasses.replace(config, data=data), opened, local_row_indices)
    first, last = scheduled.batch(0), scheduled.batch(config.train.steps)
    assert first.positions.shape == last.positions.shape == (64, 16)  # M for 0.4 of 32 tokens
    assert last.weights.sum() == pytest.approx(2 * first.weights.sum(), rel=0.05)
    assert set(first.tokens[first.weights.nonzero()[0], first.positions[first.weights > 0]]) == {
        SPECIAL.index("[MASK]")
    }
    assert is_equal(next(scheduled.validation_batches(1)), next(stream.validation_batches(1)))
    small = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=256))
    with pytest.raises(UserError, match=r"model.vocab_size: found 256, wanted at least 512"):
        open_stream(small, opened, local_row_indices)
    few = dataclasses.replace(opened.tokenizer, tokens=opened.tokenizer.tokens[:100])
    masking = dataclasses.replace(stream.masking, tokenizer=few)
    with pytest.raises(UserError, match=r"data.dir: found token \d+ in a row, wanted tokens below 100"):
        dataclasses.replace(stream, masking=masking).batch(0)
