"""A corpus that an earlier version prepared opens as before: its rows, its vocabulary and its fingerprint are the same.

Version 0.1.0 wrote tests/fixtures/corpus before rows were in the order of document keys; its manifest has unsorted
sources and the seconds of the run.
"""

import shutil
from pathlib import Path

import pytest

from symbert_jax.config import Config, DataConfig, ModelConfig
from symbert_jax.data.corpus import Corpus
from symbert_jax.data.prepare.command import prepare

FIXTURE = Path(__file__).parents[1] / "fixtures" / "corpus"


def test_older_corpus_opens_and_is_prepared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(FIXTURE, tmp_path / "corpus")
    corpus = Corpus(str(tmp_path / "corpus"))
    corpus.check_row_files()
    assert corpus.fingerprint == "220731d8c249088f4127418fb0ce0d6eb838f2ac525240db624b2d1903b25f43"
    row = [2, 5, 6, 9, 14, 21, 3, 19, 20, 23, 28, 8, 17, 28, 3, 3]
    assert corpus.split("train")[0]["tokens"].tolist() == row
    data = DataConfig(
        dir=corpus.location,
        sources=("jsonl:a.jsonl", "jsonl:b.jsonl"),
        vocab=str(FIXTURE / "vocab.txt"),
        validation_fraction=0.25,
    )
    prepare(Config(model=ModelConfig(length=16, vocab_size=32), data=data))
    assert capsys.readouterr().out == f"{tmp_path}/corpus is already prepared\n"
