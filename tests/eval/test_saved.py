"""A fine-tuned model on disk is complete, or it is missing."""

import json

import numpy as np
import pytest
from etils import epath

from symbert_jax.config import ModelConfig
from symbert_jax.errors import UserError
from symbert_jax.eval import saved
from tests.eval.conftest import CONFIG


def test_model_counts_as_missing_while_it_is_replaced(pretrained, tmp_path, monkeypatch) -> None:
    """Otherwise a kill could leave the old score without parameters, and the trials would not be trained again."""

    def write(score: float) -> None:
        description = saved.SavedModel(score, task="sst2", model=CONFIG.model, trial="key")
        saved.write(epath.Path(tmp_path), description, {"a": np.ones(2)}, epath.Path(pretrained) / "vocab.txt")

    write(50.0)
    assert saved.is_saved(epath.Path(tmp_path))

    def be_killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(saved.checkpoint, "write_params", be_killed)
    with pytest.raises(KeyboardInterrupt):
        write(60.0)
    assert not saved.is_saved(epath.Path(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": "50"}, "wanted score, task, model, trial, length of a saved model"),
        ({"score": float("nan")}, "wanted score, task, model, trial, length of a saved model"),
        ({"task": ["sst2"]}, "wanted score, task, model, trial, length of a saved model"),
        ({"task": "sst"}, "wanted score, task, model, trial, length of a saved model"),
        ({"trial": None}, "wanted score, task, model, trial, length of a saved model"),
        ({"length": 0}, "wanted score, task, model, trial, length of a saved model"),
        ({"more": 1}, "wanted score, task, model, trial, length of a saved model"),
        ({"model": []}, "wanted the model that was trained"),
        ({"model": {"heads": 0}}, "wanted the model that was trained"),
        ({"model": {"dim": 10**400}}, "wanted the model that was trained"),
    ],
)
def test_read_description_refuses_damaged_model_json(tmp_path, changes, message) -> None:
    content = {"score": 50.0, "task": "sst2", "model": {}, "trial": "key"}
    (tmp_path / "model.json").write_text(json.dumps(content))
    whole = saved.SavedModel(score=50.0, task="sst2", model=ModelConfig(), trial="key", length=128)
    assert saved.read_description(epath.Path(tmp_path)) == whole, "without a length, it is 128"
    (tmp_path / "model.json").write_text(json.dumps(content | changes))
    with pytest.raises(UserError, match=f"checkpoint: found {tmp_path}/model.json: .*{message}"):
        saved.read_description(epath.Path(tmp_path))
