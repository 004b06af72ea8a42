"""A corpus in a bucket is read from a local copy."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from fsspec import AbstractFileSystem

from configs.tiny import get_config
from symbert_jax.config import UserError, freeze
from symbert_jax.data import rows
from symbert_jax.data.stream import read_words


@pytest.fixture
def remote(corpus: Path, bucket: AbstractFileSystem, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The tiny corpus in a bucket, and a machine that has never seen it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in corpus.iterdir():
        bucket.pipe_file(f"gs://bucket/tiny/{path.name}", path.read_bytes())
    return "gs://bucket/tiny"


def test_it_is_copied_once_and_is_the_same(
    remote: str, corpus: Path, bucket: AbstractFileSystem, tmp_path: Path
) -> None:
    found = rows.find(remote)
    assert found.is_relative_to(tmp_path)
    assert {path.name: path.read_bytes() for path in found.iterdir()} == {
        path.name: path.read_bytes() for path in corpus.iterdir()
    }
    here, there = (rows.open_split(folder, "train", 32).__getitems__([3, 1]) for folder in (corpus, found))
    np.testing.assert_array_equal(*([row["tokens"] for row in some] for some in (here, there)))
    for name in bucket.ls("gs://bucket/tiny", detail=False):
        if not name.endswith(rows.MANIFEST):
            bucket.rm_file(name)
    assert rows.find(remote) == found and len(list(found.parent.iterdir())) == 1


def test_a_corpus_made_anew_is_copied_anew(remote: str, bucket: AbstractFileSystem) -> None:
    before = rows.find(remote)
    bucket.pipe_file(f"gs://bucket/tiny/{rows.MANIFEST}", b"{}")
    assert rows.find(remote) != before


def test_the_stream_reads_it(remote: str, corpus: Path) -> None:
    config = freeze(get_config())
    there = dataclasses.replace(config, data=dataclasses.replace(config.data, dir=remote))
    assert read_words(there) == (corpus / rows.VOCAB).read_text().splitlines()


def test_an_unfinished_one_is_none(remote: str, bucket: AbstractFileSystem) -> None:
    bucket.rm_file(f"gs://bucket/tiny/{rows.MANIFEST}")
    with pytest.raises(
        UserError, match=r"data.dir: found no finished corpus in gs://bucket/tiny, wanted a folder with"
    ):
        rows.find(remote)
