"""A fine-tuned model on disk is whole, or it is not there."""

import numpy as np
import pytest
from etils import epath

from symbert_jax.eval import saved
from tests.eval.conftest import CONFIG


def test_a_model_that_is_half_replaced_is_none(pretrained, tmp_path, monkeypatch) -> None:
    """Else a score would stand beside parameters that are gone, and nobody would train them again."""

    def write(score: float) -> None:
        described = saved.Saved(score, "sst2", CONFIG.model, "key")
        saved.write(epath.Path(tmp_path), described, {"a": np.ones(2)}, epath.Path(pretrained) / "vocab.txt", True)

    write(50.0)
    assert saved.is_saved(epath.Path(tmp_path))

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(saved, "write_params", killed)
    with pytest.raises(KeyboardInterrupt):
        write(60.0)
    assert not saved.is_saved(epath.Path(tmp_path))
