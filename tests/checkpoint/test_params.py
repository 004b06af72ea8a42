"""Parameters without a run are written, read and checked."""

from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

from symbert_jax.checkpoint import read_params, write_params
from symbert_jax.errors import UserError
from tests.checkpoint.conftest import tree


def test_damaged_parameters_are_one_error(tmp_path: Path) -> None:
    folder = epath.Path(tmp_path) / "params"
    write_params(folder, tree(1))
    jax.tree.map(np.testing.assert_array_equal, read_params(folder), tree(1))
    for file in [path for path in Path(folder).rglob("*") if path.is_file() and path.name != "commit_success.txt"]:
        before = file.read_bytes()
        file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        with pytest.raises(UserError, match=f"checkpoint: found {folder} damaged: .*, wanted whole parameters"):
            read_params(folder)
        file.write_bytes(before)
    jax.tree.map(np.testing.assert_array_equal, read_params(folder), tree(1))
