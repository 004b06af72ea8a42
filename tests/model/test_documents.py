"""The documents of a packed row are found by its [SEP] alone."""

import jax
import numpy as np
import pytest

from symbert_jax.config import MeshConfig
from symbert_jax.model.documents import find_documents, find_segments
from symbert_jax.sharding import make_mesh, put_batch

PAD, CLS, SEP = 0, 2, 3


@pytest.mark.parametrize(
    ("row", "segments", "position_ids"),
    [
        ([CLS, 7, 8, SEP, 9, 9, 5, SEP], [1, 1, 1, 1, 2, 2, 2, 2], [0, 1, 2, 3, 0, 1, 2, 3]),
        ([CLS, SEP, 8, SEP, 9, 9, SEP, SEP], [1, 1, 2, 2, 3, 3, 3, 4], [0, 1, 0, 1, 0, 1, 2, 0]),
        ([CLS, 7, 8, 9, 9, 5, 6, SEP], [1] * 8, range(8)),
        ([CLS, 7, SEP, 8, SEP, PAD, PAD, SEP], [1, 1, 1, 2, 2, 3, 3, 3], [0, 1, 2, 0, 1, 0, 1, 2]),
    ],
    ids=["two", "cut after a [SEP]", "one", "padding"],
)
def test_find_documents_ends_each_document_with_its_separator(row, segments, position_ids) -> None:
    with jax.set_mesh(make_mesh(MeshConfig(data=2, model=4))):
        found = jax.jit(find_documents)(put_batch(np.array([row, row], np.int32)))
    np.testing.assert_array_equal(found, [[segments] * 2, [position_ids] * 2])


def test_padding_and_the_separator_after_it_are_no_part_of_the_documents() -> None:
    rows = [[CLS, 7, SEP, 8, SEP, PAD, PAD, SEP], [CLS, 7, 8, 9, 9, 5, 6, SEP], [CLS, 7, SEP, 8, 9, 9, SEP, SEP]]
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        tokens = put_batch(np.array(rows, np.int32))
        segments, position_ids = find_segments(tokens, cross_document=True, pad=PAD)
        assert find_segments(tokens, cross_document=True, pad=None) == (None, None)
    np.testing.assert_array_equal(segments, [[1, 1, 1, 1, 1, 0, 0, 0], [1] * 8, [1] * 8])
    assert position_ids is None
