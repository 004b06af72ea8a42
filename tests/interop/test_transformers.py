"""Compares our numbers for exported folders with recorded numbers of transformers.

If a test fails, run `make interop`, which compares with transformers itself. If that succeeds, only the recorded
numbers are old (another fixture, other inputs): run `make interop RECORD=1` and commit the new file.
"""

import numpy as np
import pytest

from symbert_jax.config import ATTENTIONS
from tests.interop import ours

RECORDED = ours.FIXTURES / "transformers" / "recorded.npz"
MODELS = (*ATTENTIONS, ours.MODERN)


@pytest.fixture(scope="module")
def found(workdirs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """What this package computes, by the names in RECORDED."""
    folder = tmp_path_factory.mktemp("exported")
    return ours.write(folder, workdirs | {ours.MODERN: ours.make_modern(folder)}, [])


def test_recorded_arrays_are_all_compared(found) -> None:
    assert found.keys() == set(np.load(RECORDED).files)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("batch", ["whole", "padded"])
def test_logits_match_transformers(found, model, batch) -> None:
    name = f"{model}/logits/{batch}"
    # the residual stream of a pre-norm model grows, and rounding errors with it
    np.testing.assert_allclose(found[name], np.load(RECORDED)[name], atol=5e-5 if model == ours.MODERN else 1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_best_tokens_and_classes_match_transformers(found, model) -> None:
    recorded = np.load(RECORDED)
    np.testing.assert_array_equal(found[f"{model}/fill"], recorded[f"{model}/fill"])
    classes = recorded[f"{model}/classes"]
    np.testing.assert_allclose(found[f"{model}/classes"], classes, atol=1e-4, rtol=1e-4)
    assert (found[f"{model}/classes"].argmax(-1) == classes.argmax(-1)).all()


def test_gradient_descent_matches_torch(found) -> None:
    np.testing.assert_allclose(found["sgd/losses"], np.load(RECORDED)["sgd/losses"], atol=1e-5)


def test_token_ids_of_odd_texts_match_transformers(found) -> None:
    np.testing.assert_array_equal(found["tokenizer/ids"], np.load(RECORDED)["tokenizer/ids"])
