"""A corpus in a bucket is read from a local copy."""

import dataclasses
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from fsspec import AbstractFileSystem

from configs.tiny import get_config
from symbert_jax.config import freeze
from symbert_jax.data import rows
from symbert_jax.data.stream import read_words
from symbert_jax.errors import UserError


@pytest.fixture
def remote(corpus: Path, bucket: AbstractFileSystem, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The tiny corpus in a bucket, and a machine that has never seen it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in filter(Path.is_file, corpus.iterdir()):
        bucket.pipe_file(f"gs://bucket/tiny/{path.name}", path.read_bytes())
    return "gs://bucket/tiny"


def in_cache(copy: Path) -> list[str]:
    return sorted(path.name for path in copy.parent.iterdir())


def test_it_is_copied_once_and_is_the_same(
    remote: str, corpus: Path, bucket: AbstractFileSystem, tmp_path: Path
) -> None:
    found = rows.find(remote)
    assert found.is_relative_to(tmp_path)
    assert {path.name: path.read_bytes() for path in found.iterdir()} == {
        path.name: path.read_bytes() for path in filter(Path.is_file, corpus.iterdir())
    }
    here, there = (rows.open_split(folder, "train", 32).__getitems__([3, 1]) for folder in (corpus, found))
    np.testing.assert_array_equal(*([row["tokens"] for row in some] for some in (here, there)))
    for name in bucket.ls("gs://bucket/tiny", detail=False):
        if not name.endswith(rows.MANIFEST):
            bucket.rm_file(name)
    assert rows.find(remote) == found and in_cache(found) == [found.name]


def test_a_corpus_made_anew_is_copied_anew(remote: str, bucket: AbstractFileSystem, tmp_path: Path) -> None:
    before = rows.find(remote)
    changed = tmp_path / "changed"
    shutil.copytree(before, changed)
    rows.write_manifest(changed, rows.read_manifest(changed).content | {"seconds": 0})
    bucket.pipe_file(f"gs://bucket/tiny/{rows.MANIFEST}", (changed / rows.MANIFEST).read_bytes())
    assert rows.find(remote) != before


def test_copy_of_a_damaged_corpus_is_refused_and_leaves_nothing(remote: str, bucket: AbstractFileSystem) -> None:
    name = "gs://bucket/tiny/corpus-train.array_record-00000"
    content = bucket.cat_file(name)
    for damaged in (content[:-9], content[:-9] + b"?" + content[-8:]):
        bucket.pipe_file(name, damaged)
        with pytest.raises(UserError, match=rf"data.dir: found {name}(, changed| of .* bytes), wanted"):
            rows.find(remote)
    bucket.pipe_file(name, content)
    manifest = bucket.cat_file(f"gs://bucket/tiny/{rows.MANIFEST}")
    for damaged in (b"", b"\xff", b"{}", manifest.replace(b'"length": 32', b'"length": 33')):
        bucket.pipe_file(f"gs://bucket/tiny/{rows.MANIFEST}", damaged)
        with pytest.raises(UserError, match=f"data.dir: found gs://bucket/tiny/{rows.MANIFEST}"):
            rows.find(remote)
    assert not list((Path.home() / ".cache/symbert_jax/corpora").glob("*"))


def test_of_several_at_once_one_copies_and_the_others_wait(remote: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each opens the lock for itself, as processes do."""
    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(rows.find, [remote] * 4)
    assert others == [first] * 3 and in_cache(first) == [first.name]
    assert capsys.readouterr().out == f"copying {remote} to {first}\n"


def test_copy_removes_what_killed_copies_left(remote: str) -> None:
    copy = rows.find(remote)
    shutil.rmtree(copy)
    for name in (f"{copy.name}.incomplete", "0123456789abcdef.incomplete"):  # of this corpus and of another
        copy.with_name(name).mkdir()
        copy.with_name(name).joinpath("vocab.txt").write_text("[PAD]")
    assert rows.find(remote) == copy and rows.is_finished(copy)
    assert in_cache(copy) == [copy.name]


@pytest.mark.parametrize("broken", ["exists", "copy"])
def test_a_bucket_that_breaks_is_a_line(remote: str, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class HttpError(Exception):
        pass

    def fail(*_: object) -> None:
        raise HttpError("Anonymous caller\nhas no access")

    monkeypatch.setattr(type(epath.Path(remote)), broken, fail)
    message = "data.dir: found gs://bucket/tiny: HttpError: Anonymous caller has no access, wanted a bucket that can be"
    with pytest.raises(UserError, match=message):
        rows.find(remote)


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
