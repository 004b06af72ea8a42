"""`import symbert_jax` offers all public names, and `batches` yields the training batches of a config."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import symbert_jax
from symbert_jax.config import ConfigDict
from symbert_jax.data.corpus import Corpus
from symbert_jax.data.stream import open_stream
from tests.conftest import configure, write_corpus

ROOT = Path(__file__).parents[1]
IMPORT_ALONE = "import sys, symbert_jax; sys.exit(bool({'jax', 'numpy'} & {*sys.modules}))"


def test_package_imports_its_names_on_first_use() -> None:
    assert subprocess.run([sys.executable, "-c", IMPORT_ALONE], cwd=ROOT, timeout=60).returncode == 0
    assert set(symbert_jax.__all__) <= set(dir(symbert_jax))
    for name in symbert_jax.__all__:
        assert getattr(symbert_jax, name).__name__ == name and getattr(symbert_jax, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        symbert_jax.lode  # noqa: B018


def test_batches_are_those_that_pretrain_sees(tmp_path: Path) -> None:
    config = configure(data={"dir": str(write_corpus(tmp_path / "corpus"))}, train={"steps": 6})
    found = list(symbert_jax.batches(config, start=4))
    assert len(found) == 2
    # two processes that read half of the 16 rows of a batch each
    streams = [open_stream(config, Corpus(config.data.dir), half) for half in np.split(np.arange(16), 2)]
    for step, batch in zip((4, 5), found, strict=True):
        halves = [stream.batch(step) for stream in streams]
        for array, *half_arrays in zip(batch, *halves, strict=True):
            np.testing.assert_array_equal(array, np.concatenate(half_arrays))
    (last,) = symbert_jax.batches(ConfigDict(dataclasses.asdict(config)), start=5)
    np.testing.assert_array_equal(last.tokens, found[1].tokens)
    with pytest.raises(symbert_jax.UserError, match="start: found -1, wanted a step, from 0"):
        symbert_jax.batches(config, start=-1)
    with pytest.raises(symbert_jax.UserError, match=r"optim\.warmup_steps: found 5, wanted fewer than train"):
        symbert_jax.batches(dataclasses.replace(config, train=dataclasses.replace(config.train, steps=5)))
