"""`Classifier` predicts with a model that `finetune` saved. tests/eval/test_finetune.py checks its score."""

from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

import symbert_jax
from symbert_jax.classification import Classifier
from symbert_jax.errors import UserError
from symbert_jax.eval import saved
from symbert_jax.inference import MAX_BATCH, one_device
from symbert_jax.model import classifier
from tests.conftest import WORDS, configure, init_params_numpy

MODEL = configure().model  # reads 16 tokens


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory):
    """A function that saves and loads an untrained model of a task, as if fine-tuned on texts of `length` tokens."""

    def load_untrained(task: str, num_outputs: int, length: int = 128) -> Classifier:
        folder = epath.Path(tmp_path_factory.mktemp("saved") / task)
        vocab = epath.Path(tmp_path_factory.mktemp("vocabulary") / "vocab.txt")
        vocab.write_text("\n".join(WORDS))
        with jax.set_mesh(one_device()):
            head = jax.tree.map(np.asarray, classifier.init_head(MODEL, num_outputs, jax.random.key(1)))
        head["classifier"]["kernel"] = 100 * head["classifier"]["kernel"]  # so that predictions differ
        params = init_params_numpy(MODEL) | {"head": head}
        description = saved.SavedModel(score=70.0, task=task, model=MODEL, trial="trial", length=length)
        saved.write(folder, description, params, vocab)
        return symbert_jax.load_classifier(folder)

    return load_untrained


def test_regression_predicts_values_in_order(load) -> None:
    model = load("stsb", num_outputs=1)
    pairs = [(f"w{i}", " ".join(f"w{j}" for j in range(i % 7))) for i in range(MAX_BATCH + 5)]
    values = model.predict(iter(pairs))
    assert all(isinstance(value, float) for value in values) and np.std(values) > 1e-3
    for i in (3, -1):
        assert model.predict([pairs[i]]) == pytest.approx([values[i]], abs=1e-5)
    assert model.predict([]) == []
    with pytest.raises(UserError, match="probabilities: found stsb, a regression, wanted a task with classes"):
        model.probabilities(pairs)


def test_classes_have_names_and_probabilities(load) -> None:
    model = load("mnli", num_outputs=3)
    assert (model.task.name, model.score) == ("mnli", 70.0)
    assert model.length == MODEL.length, "the model reads fewer than the 128 tokens of fine-tuning"
    pairs = [("w1 w2", "w3"), ("w4", "w1 [SEP] w2 " * 9)]
    found = model.probabilities(pairs)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    assert model.predict(pairs) == [("entailment", "neutral", "contradiction")[i] for i in found.argmax(1)]


def test_classifier_cuts_texts_as_fine_tuning_did(load) -> None:
    model = load("mnli", num_outputs=3, length=8)
    long, same, other = model.logits([("w1 w2 w3 w4 w5 w6", "w7"), ("w1 w2 w3 w4", "w7"), ("w1 w2 w3", "w7")])
    assert long == pytest.approx(same, abs=1e-6) and long != pytest.approx(other, abs=1e-6)


def test_classifier_refuses_wrong_examples(load) -> None:
    rte, sst2 = load("rte", num_outputs=2), load("sst2", num_outputs=2)
    for model, examples, message in (
        (rte, ["w1"], r"pairs\[0\]: found 'w1', wanted a tuple of two sentences, as rte has"),
        (sst2, ["w1", ("w1", "w2")], r"pairs\[1\]: found \('w1', 'w2'\), wanted a sentence, as sst2 has"),
        (sst2, "w1", "pairs: found 'w1', wanted a list, each item a sentence"),
        (sst2, iter(["w1", float("nan")]), r"pairs\[1\]: found nan, wanted text"),
        (rte, [("w1", "\udcff")], r"pairs\[0\]: found '\\udcff', wanted text in UTF-8"),
    ):
        with pytest.raises(UserError, match=message):
            model.predict(examples)


def test_load_classifier_refuses_other_folders(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=f"no {tmp_path}/model.json, wanted a folder that finetune saved: WORKDIR/models"
    ):
        symbert_jax.load_classifier(tmp_path)
