"""Corpora are opened, compared by their fingerprints, and copied from a bucket; damaged ones are refused."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from fsspec import AbstractFileSystem

from symbert_jax.config import ModelConfig
from symbert_jax.data.corpus import Corpus, compute_fingerprint, local_copy
from symbert_jax.data.manifest import MANIFEST, is_finished, read_manifest, write_manifest
from symbert_jax.data.prepare.command import prepare
from symbert_jax.data.rows import read_tokens
from symbert_jax.data.vocabulary import VOCAB
from symbert_jax.errors import UserError
from tests.data.fake_rows import VOCABULARY, FakeRows
from tests.data.texts import LENGTH, distinct_texts, make_config


def test_corpus_reports_what_does_not_fit_the_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.dir: found no finished corpus in .*; run `python -m symbert_jax prep"):
        Corpus(str(tmp_path / "corpus")).split("train")
    prepare(make_config(tmp_path, distinct_texts(30)))
    corpus = Corpus(str(tmp_path / "corpus"))
    length_problem, size_problem = corpus.problems(ModelConfig(length=512, vocab_size=12))
    assert str(length_problem).startswith(
        f"model.length: found 512, wanted 8, the length of the rows in {corpus.folder}; or"
    )
    wanted = f"model.vocab_size: found 12, wanted at least 13, the number of tokens of the tokenizer in {corpus.folder}"
    assert str(size_problem) == wanted
    assert not list(corpus.problems(ModelConfig(length=LENGTH, vocab_size=13)))
    with pytest.raises(UserError, match=r"data.dir: found no validation rows in .*; raise data.validation_fraction"):
        corpus.split("validation")
    assert len(corpus.split("train")) == 30 * 11 // 6  # 10 tokens and [SEP] a document, T - 2 = 6 a row


def test_fingerprint_differs_between_corpora() -> None:
    changed = FakeRows(50)
    changed.tokens[25, 3] ^= 1  # all 50 rows are in the sample
    corpora = [(VOCABULARY, FakeRows(50)), (VOCABULARY, FakeRows(51)), (VOCABULARY, changed)]
    corpora.append(([*VOCABULARY[:-1], "x"], FakeRows(50)))
    fingerprints = [compute_fingerprint(vocabulary, [rows, FakeRows(21)]) for vocabulary, rows in corpora]
    assert len(set(fingerprints)) == 4
    assert compute_fingerprint(VOCABULARY, [FakeRows(50), FakeRows(21)]) == fingerprints[0]


@pytest.fixture
def remote(corpus: Path, bucket: AbstractFileSystem, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The location of the tiny corpus in a bucket, of which this machine has no copy."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in filter(Path.is_file, corpus.iterdir()):
        bucket.pipe_file(f"gs://bucket/tiny/{path.name}", path.read_bytes())
    return "gs://bucket/tiny"


def names_in_cache(copy: Path) -> list[str]:
    return sorted(path.name for path in copy.parent.iterdir())


def test_corpus_in_a_bucket_is_copied_once(
    remote: str, corpus: Path, bucket: AbstractFileSystem, tmp_path: Path
) -> None:
    copy = Corpus(remote)
    assert copy.folder.is_relative_to(tmp_path)
    assert {path.name: path.read_bytes() for path in copy.folder.iterdir()} == {
        path.name: path.read_bytes() for path in filter(Path.is_file, corpus.iterdir())
    }
    original = Corpus(str(corpus))
    assert copy.tokenizer.tokens == tuple((corpus / VOCAB).read_text().splitlines())
    np.testing.assert_array_equal(
        *(read_tokens(each.split("train"), np.array([3, 1])) for each in (original, copy)), strict=True
    )
    assert copy.fingerprint == original.fingerprint
    for name in bucket.ls("gs://bucket/tiny", detail=False):
        if not name.endswith(MANIFEST):
            bucket.rm_file(name)
    assert local_copy(remote) == copy.folder and names_in_cache(copy.folder) == [copy.folder.name]


def test_changed_corpus_in_a_bucket_is_copied_again(remote: str, bucket: AbstractFileSystem, tmp_path: Path) -> None:
    before = local_copy(remote)
    changed = tmp_path / "changed"
    shutil.copytree(before, changed)
    write_manifest(changed, read_manifest(changed).content | {"seconds": 0})
    bucket.pipe_file(f"gs://bucket/tiny/{MANIFEST}", (changed / MANIFEST).read_bytes())
    assert local_copy(remote) != before


def test_copy_of_a_damaged_corpus_is_refused_and_removed(remote: str, bucket: AbstractFileSystem) -> None:
    name = "gs://bucket/tiny/corpus-train.array_record-00000"
    content = bucket.cat_file(name)
    for damaged in (content[:-9], content[:-9] + b"?" + content[-8:]):
        bucket.pipe_file(name, damaged)
        with pytest.raises(UserError, match=rf"data.dir: found {name}(, changed| of .* bytes), wanted"):
            local_copy(remote)
    bucket.pipe_file(name, content)
    manifest = bucket.cat_file(f"gs://bucket/tiny/{MANIFEST}")
    for damaged in (b"", b"\xff", b"{}", manifest.replace(b'"length": 32', b'"length": 33')):
        bucket.pipe_file(f"gs://bucket/tiny/{MANIFEST}", damaged)
        with pytest.raises(UserError, match=f"data.dir: found gs://bucket/tiny/{MANIFEST}"):
            local_copy(remote)
    bucket.rm_file(f"gs://bucket/tiny/{MANIFEST}")
    with pytest.raises(
        UserError, match=r"data.dir: found no finished corpus in gs://bucket/tiny, wanted a folder with"
    ):
        local_copy(remote)
    assert not list((Path.home() / ".cache/symbert_jax/corpora").glob("*"))


def test_one_of_several_processes_copies(remote: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Threads take the place of processes: the lock excludes them, too, because each opens the lock file itself."""
    with ThreadPoolExecutor(4) as pool:
        copy, *others = pool.map(local_copy, [remote] * 4)
    assert others == [copy] * 3 and names_in_cache(copy) == [copy.name]
    assert capsys.readouterr().out == f"copying {remote} to {copy}\n"


def test_copy_removes_the_files_of_killed_copies(remote: str) -> None:
    copy = local_copy(remote)
    shutil.rmtree(copy)
    for name in (f"{copy.name}.incomplete", "0123456789abcdef.incomplete"):  # copies of this corpus and of another
        copy.with_name(name).mkdir()
        copy.with_name(name).joinpath("vocab.txt").write_text("[PAD]")
    assert local_copy(remote) == copy and is_finished(copy)
    assert names_in_cache(copy) == [copy.name]


@pytest.mark.parametrize("method", ["exists", "copy"])
def test_error_of_a_bucket_is_a_user_error(remote: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class HttpError(Exception):
        pass

    def fail(*_: object) -> None:
        raise HttpError("Anonymous caller\nhas no access")

    monkeypatch.setattr(type(epath.Path(remote)), method, fail)
    message = "data.dir: found gs://bucket/tiny: HttpError: Anonymous caller has no access, wanted a bucket that can be"
    with pytest.raises(UserError, match=message):
        local_copy(remote)
