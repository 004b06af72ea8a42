"""With data.packing=best_fit, whole documents are packed into rows, and padding is known and never predicted."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from symbert_jax.data.corpus import Corpus
from symbert_jax.data.prepare import best_fit, local
from symbert_jax.data.prepare.best_fit import best_fit_decreasing
from symbert_jax.data.prepare.command import prepare
from symbert_jax.data.prepare.packing import cut_rows
from symbert_jax.data.stream import open_stream
from symbert_jax.data.vocabulary import SPECIAL
from tests.data.texts import CLS, LENGTH, SEP, distinct_texts, make_config, read_rows

PAD = 0


@given(sizes=st.lists(st.integers(1, 12), max_size=60))
def test_each_item_joins_the_fullest_bin_with_room_for_it(sizes: list[int]) -> None:
    bins, offsets = best_fit_decreasing(sizes, capacity=12)
    used: list[int] = []  # by bin
    for item in sorted(range(len(sizes)), key=lambda item: -sizes[item]):
        fits = [bin_ for bin_, size in enumerate(used) if size + sizes[item] <= 12]
        if bins[item] == len(used):
            assert not fits
            used.append(0)
        assert offsets[item] == used[bins[item]] == max((used[bin_] for bin_ in fits), default=0)
        used[bins[item]] += sizes[item]
    assert all(size <= 12 for size in used)


def documents_in(row: list[int]) -> list[tuple[int, ...]]:
    """Returns the documents of a row, without padding; the last one may go on in another row."""
    found, document = [], []
    for token in row[1:]:
        if token in (SEP, PAD):
            found.append(tuple(document))
            document = []
        else:
            document.append(token)
    return [document for document in found if document]


@given(
    documents=st.lists(st.lists(st.integers(5, 9), min_size=1, max_size=30), min_size=1, max_size=40),
    window=st.integers(1, 200),
    chunk=st.integers(1, 20),
)
def test_documents_of_at_most_a_row_are_never_cut(documents: list[list[int]], window: int, chunk: int) -> None:
    """Every document is in one window, even one that is longer than several windows."""
    sequence = np.array([token for document in documents for token in (*document, SEP)], np.uint16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(best_fit, "_WINDOW", window)
        patch.setattr(best_fit, "_CHUNK", chunk)
        windows = [
            best_fit.read_window(lambda start, end: sequence[start:end], number, len(sequence), SEP)
            for number in range(best_fit.count_windows(len(sequence)))
        ]
    np.testing.assert_array_equal(np.concatenate(windows), sequence)
    packed = np.concatenate([best_fit.pack(window, LENGTH, SEP, PAD) for window in windows])
    rows, inner = cut_rows(packed, LENGTH, CLS, SEP), LENGTH - 2
    wanted = [tuple(document[i : i + inner]) for document in documents for i in range(0, len(document), inner)]
    assert sorted(document for row in rows.tolist() for document in documents_in(row)) == sorted(wanted)
    for row in rows:
        padding = np.flatnonzero(row == PAD).tolist()
        assert padding == list(range(LENGTH - 1 - len(padding), LENGTH - 1))  # at the end, before the last [SEP]
        assert row[-2 - len(padding)] == SEP or not padding


def test_rows_depend_on_windows_but_not_on_buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, found = [text[: 1 + i % 19] for i, text in enumerate(distinct_texts(300))], []
    for bucket, window in ((500, 200), (10_000, 200), (500, 1 << 20)):
        monkeypatch.setattr(local, "_BUCKET_BYTES", bucket)
        monkeypatch.setattr(best_fit, "_WINDOW", window)
        folder = tmp_path / f"{bucket}-{window}"
        folder.mkdir()
        prepare(make_config(folder, texts, packing="best_fit"))
        found.append(read_rows(folder, "train"))
        split = Corpus(str(folder / "corpus")).manifest.content["splits"]["train"]
        assert split["tail_tokens_dropped"] == 0
        assert split["padding_share"] == round(float(np.mean(np.array(found[-1]) == PAD)), 6)
        assert sum(len(documents_in(row)) for row in found[-1]) >= split["documents"]
    assert found[0] == found[1] != found[2]


def test_stream_knows_the_padding_and_never_predicts_it(tmp_path: Path) -> None:
    config = make_config(tmp_path, ["a b c"] * 2 + ["b c", "c b a", "b b b", "c"], fraction=0.6, packing="best_fit")
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=8))
    prepare(config)
    corpus = Corpus(config.data.dir)
    stream = open_stream(config, corpus, local_row_indices=np.arange(config.data.batch_size))
    rows = np.array(read_rows(tmp_path, "train"))
    assert stream.pad == SPECIAL.index("[PAD]") == PAD
    assert stream.padding == pytest.approx(np.mean(rows == PAD), abs=1e-6) and stream.padding > 0.1
    batch, order = stream.batch(0), [stream.order[index] for index in range(config.data.batch_size)]
    np.testing.assert_array_equal(batch.tokens == PAD, rows[order] == PAD)  # none is masked, none replaces a token
    assert not (batch.targets[batch.weights > 0] == PAD).any()
