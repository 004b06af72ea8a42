"""The documents of a packed row are found by its [SEP] alone."""

import jax
import numpy as np
import pytest

from symbert_jax.config import MeshConfig
from symbert_jax.model.documents import find_documents
from symbert_jax.sharding import make_mesh, put_batch

CLS, SEP = 2, 3


@pytest.mark.parametrize(
    ("row", "segments", "position_ids"),
    [
        ([CLS, 7, 8, SEP, 9, 9, 5, SEP], [1, 1, 1, 1, 2, 2, 2, 2], [0, 1, 2, 3, 0, 1, 2, 3]),
        ([CLS, SEP, 8, SEP, 9, 9, SEP, SEP], [1, 1, 2, 2, 3, 3, 3, 4], [0, 1, 0, 1, 0, 1, 2, 0]),
        ([CLS, 7, 8, 9, 9, 5, 6, SEP], [1] * 8, range(8)),
    ],
    ids=["two", "cut after a [SEP]", "one"],
)
def test_find_documents_ends_each_document_with_its_separator(row, segments, position_ids) -> None:
    with jax.set_mesh(make_mesh(MeshConfig(data=2, model=4))):
        found = jax.jit(find_documents)(put_batch(np.array([row, row], np.int32)))
    np.testing.assert_array_equal(found, [[segments] * 2, [position_ids] * 2])
