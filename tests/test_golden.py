"""What a refactoring must not change: the order of rows, masks, dropout, and the first losses of training.

Each value was recorded from the code. If one changes, a run that resumes with this version continues with other rows,
masks or numbers than it began with. If that is intended, say so in the commit, record the new value from the output of
the failed test, and raise the version of the package. If it is not, find the change that caused it.
"""

import hashlib
import json
from unittest.mock import MagicMock

import jax
import numpy as np
import pytest
from etils import epath

from symbert_jax import sharding
from symbert_jax.config import MeshConfig
from symbert_jax.data.masking import Masking
from symbert_jax.data.stream import Rows, Stream
from symbert_jax.model.layers import dropout
from symbert_jax.train import loop
from tests.conftest import TOKENIZER, WORDS, configure, write_corpus


def digest(*arrays: np.ndarray) -> str:
    """Returns the first 16 digits of the SHA-256 of arrays with their types and shapes."""
    parts = [f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes() for array in arrays]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def test_order_of_rows_is_unchanged() -> None:
    """If it changes, a resumed run sees some rows twice in an epoch and others never."""
    rows = MagicMock(spec=Rows, __len__=lambda _: 50)
    stream = Stream(
        train=rows,
        validation=rows,
        masking=Masking(TOKENIZER, length=16, rate=0.15, seed=7),
        validation_masking=Masking(TOKENIZER, length=16, rate=0.15, seed=0),
        mask_rate=lambda step: 0.15,
        batch_size=8,
        local_row_indices=np.arange(8),
        may_lack_targets=False,
    )
    assert [stream.order[index] for index in range(8)] == [28, 9, 0, 45, 29, 30, 17, 6]
    assert digest(np.array([stream.order[index] for index in range(120)])) == "b85d1a9928bff802"


def test_masks_are_unchanged() -> None:
    """If they change, losses no longer compare with those of earlier runs: validation has the masks of seed 0."""
    tokens = np.random.default_rng(0).integers(5, len(WORDS), (32, 64), dtype=np.uint16)
    masking = Masking(TOKENIZER, length=64, rate=0.15, seed=7)
    batch = masking(tokens, row_indices=np.arange(32) * 1000, epochs=np.arange(32) % 3)
    assert batch.positions[0].tolist() == [3, 45, 61, 23, 35, 43, 49, 60, 34, 27, 0, 0, 0, 0, 0, 0]
    assert digest(*batch) == "83af09fed5b181c3"


@pytest.mark.parametrize("devices", [1, 8])
def test_dropout_bits_are_unchanged(devices: int) -> None:
    """If they change, resumed runs and fine-tuning give other numbers of the same quality."""
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:devices])
    with jax.set_mesh(mesh):
        x = sharding.put_batch(np.ones((16, 200), np.float32))
        kept = jax.jit(lambda x: dropout(x, 0.1, jax.random.key(7)) > 0)(x)
    assert digest(np.asarray(kept)) == "12a25523012104a4"


@pytest.mark.parametrize(
    ("attention", "devices", "losses"),
    [
        ("standard", 1, [4.863168, 4.857277, 4.868591]),
        ("symmetric", 1, [4.863164, 4.857623, 4.868668]),
        ("pairwise", 8, [4.863232, 4.857378, 4.868784]),
        ("pairwise", 1, [4.863232, 4.857378, 4.868784]),
    ],
)
def test_first_losses_of_pretrain_are_unchanged(attention, devices, losses, tmp_path, monkeypatch) -> None:
    """The losses cover the initial parameters, the batches, dropout and the optimizer; compilers differ by up to 1e-5.

    If they change, the numbers in docs/ belong to another program: repeat the runs that they come from.
    """
    config = configure(
        model={"attention": attention},
        data={"dir": str(write_corpus(tmp_path / "corpus"))},
        train={"log_every": 1},
    )
    monkeypatch.setattr(loop, "make_mesh", lambda mesh: sharding.make_mesh(mesh, jax.devices()[:devices]))
    monkeypatch.setattr(loop.Stop, "should_stop", lambda self, step: "end" if step == 3 else None)
    loop.pretrain(config, epath.Path(tmp_path / "run"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    found = [line["train/loss"] for line in lines if "train/loss" in line]
    assert found == pytest.approx(losses, abs=1e-5), found
