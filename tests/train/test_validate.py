"""The check that the validation rows have tokens to predict."""

from pathlib import Path

import numpy as np
import pytest

from symbert_jax.data.corpus import Corpus
from symbert_jax.data.stream import open_stream
from symbert_jax.errors import UserError
from symbert_jax.train.validate import check_targets
from tests.conftest import configure, write_corpus


def test_check_targets_rejects_rows_without_a_token_to_predict(tmp_path: Path) -> None:
    """Of the 16 validation rows, 15 or all have no ordinary token, and so no token to predict."""
    for name, num_unknown in (("some", 15), ("none", 16)):
        corpus = write_corpus(tmp_path / name, unknown=(0, num_unknown))
        config = configure(data={"dir": str(corpus), "batch_size": 8})
        stream = open_stream(config, Corpus(str(corpus)), local_row_indices=np.arange(0))  # others hold the rows
        if name == "some":
            check_targets(config, stream)
            continue
        with pytest.raises(UserError, match=f"data.dir: found no token to predict in the validation rows of {corpus}"):
            check_targets(config, stream)
