"""Every engine of Apache Beam writes the bytes of the local one, also if workers die and when it writes to a bucket."""

import dataclasses
import os
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from dask.distributed import LocalCluster
from fsspec import AbstractFileSystem

from symbert_jax.cli.commands import COMMANDS
from symbert_jax.cli.parsing import parse
from symbert_jax.config.changes import with_values
from symbert_jax.data import rows
from symbert_jax.data.prepare import beam, best_fit
from symbert_jax.data.prepare.beam_options import parse_options
from symbert_jax.data.prepare.command import prepare
from symbert_jax.errors import UserError
from tests.command_line import ROOT
from tests.data.prepare.test_reproducible import digests, make_config, random_texts, use_small_files, write_sources

IN_MEMORY = "--runner=FnApiRunner"
PROCESSES = f"{IN_MEMORY} --direct_running_mode=multi_processing --direct_num_workers"
LOOPBACK = "--runner=PortableRunner --job_endpoint=embed --environment_type=LOOPBACK"
DASK = "--runner=apache_beam.runners.dask.dask_runner.DaskRunner --dask_npartitions=2 --dask_client_address"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with sources, which is the current one, and with their corpus `local`, which this machine prepared."""
    folder = tmp_path_factory.mktemp("beam")
    write_sources(folder, random_texts(600), seed=0)
    with pytest.MonkeyPatch.context() as patch:
        use_small_files(patch.setattr)
        patch.setattr(beam, "_BUCKET_BYTES", 1 << 13)
        patch.setenv("PYTHONPATH", str(ROOT))  # for processes of workers
        patch.chdir(folder)
        prepare(make_config("local"))
        yield folder


@pytest.mark.parametrize("options", [IN_MEMORY, f"{PROCESSES}=3", LOOPBACK])
def test_engine_writes_the_bytes_of_the_local_one(options: str, folder: Path, tmp_path: Path) -> None:
    prepare(make_config(f"{tmp_path}/corpus", sources=("2", "0", "1")), options)
    assert digests(tmp_path / "corpus") == digests(folder / "local")
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_engine_trains_bpe_and_packs_whole_documents_like_the_local_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(best_fit, "_WINDOW", 1 << 12)
    config = make_config(f"{tmp_path}/local", packing="best_fit")
    config = with_values(config, {"data.vocab": "train:bpe", "model.vocab_size": 300})
    prepare(config)
    prepare(with_values(config, {"data.dir": f"{tmp_path}/corpus"}), IN_MEMORY)
    found = digests(tmp_path / "corpus")
    assert found == digests(tmp_path / "local") and "tokenizer.json" in found


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster


def test_dask_writes_the_bytes_of_the_local_engine(folder: Path, tmp_path: Path, cluster: LocalCluster) -> None:
    prepare(make_config(f"{tmp_path}/corpus"), f"{DASK}={cluster.scheduler_address}")
    assert digests(tmp_path / "corpus") == digests(folder / "local")


def die_while_writing(module: Any, name: str, died: Path) -> None:
    """Lets the first call of a function, which writes a file to its first argument, kill this process half-way."""
    write = getattr(module, name)

    def write_or_die(path: Path, *arguments: Any) -> Any:
        if not died.exists():
            path.write_bytes(b"half of a file")
            died.touch()
            os._exit(9)
        return write(path, *arguments)

    setattr(module, name, write_or_die)


def test_worker_that_dies_leaves_no_partial_and_no_double_file(
    folder: Path, tmp_path: Path, cluster: LocalCluster
) -> None:
    """The worker dies within a row file. Dask repeats its work."""
    with cluster.get_client() as client:
        client.run(die_while_writing, rows, "write_file", tmp_path / "died")
    prepare(make_config(f"{tmp_path}/corpus"), f"{DASK}={cluster.scheduler_address}")
    assert (tmp_path / "died").exists()
    assert digests(tmp_path / "corpus") == digests(folder / "local")


def test_corpus_is_written_to_a_bucket(
    folder: Path, bucket: AbstractFileSystem, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config("gs://bucket/corpus")
    # files of an earlier run that was killed
    bucket.pipe_file("gs://bucket/corpus/unfinished/counts/00001.npz", b"")
    bucket.pipe_file("gs://bucket/corpus/corpus-train.array_record-00099", b"")
    prepare(config, IN_MEMORY)
    objects = {
        path.removeprefix("/bucket/corpus/"): bucket.cat_file(path) for path in bucket.find("gs://bucket/corpus")
    }
    assert {name: sha256(content).hexdigest() for name, content in objects.items()} == digests(folder / "local")
    assert "gs://bucket/corpus: " in capsys.readouterr().out
    prepare(config, IN_MEMORY)
    assert capsys.readouterr().out == "gs://bucket/corpus is already prepared\n"
    longer = dataclasses.replace(config, model=dataclasses.replace(config.model, length=32))
    with pytest.raises(UserError, match=r"^model.length: found 32 for gs://bucket/corpus, which is already prepared"):
        prepare(longer, IN_MEMORY)
    bucket.rm_file("gs://bucket/corpus/manifest.json")
    with pytest.raises(UserError, match=r"^data.dir: found gs://bucket/corpus, which is not a corpus"):
        prepare(config, IN_MEMORY)
    with pytest.raises(UserError, match=r"^data.dir: found gs://bucket/corpus, wanted a local folder; .* --beam"):
        prepare(config)


@pytest.mark.parametrize(
    "options, message",
    [
        ("--runner=DirectRunner", "--runner=DirectRunner, .*; name FnApiRunner, or leave out --beam"),
        ("--runner='Fn", '"--runner=\'Fn": No closing quotation, wanted options in the syntax of a shell'),
        ("--parallelism=2", "'--parallelism=2', wanted --runner=NAME among the options"),
        ("--runner=Fn", "--runner=Fn: Unexpected pipeline runner: Fn."),
        ("--runner=flank.Runner", "--runner=flank.Runner: No module named 'flank'"),
        (f"{IN_MEMORY} --direct_num_worker=2", "--direct_num_worker, .*; did you mean 'direct_num_workers'?"),
        (f"{IN_MEMORY} --direct_num_workers=two", "argument --direct_num_workers: invalid int value: 'two'"),
        (f"{IN_MEMORY} two", "'two', wanted options written as --name=value"),
    ],
)
def test_wrong_option_is_an_error(options: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^--beam: found {message}"):
        parse_options(options)


def test_missing_package_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "symbert_jax.data.prepare.beam_options", None)
    with pytest.raises(UserError, match=r"^--beam: found .*, wanted Apache Beam; pip install apache-beam$"):
        prepare(make_config("unwritten"), IN_MEMORY)


def test_command_reports_mistakes(folder: Path) -> None:
    """The second mistake is found by a worker."""
    (folder / "bad.jsonl").write_text('{"text": "a"}\n{"text": 1}\n')
    flags = ["--config=tiny", "--config.data.dir=unwritten", "--config.data.sources=jsonl:bad.jsonl"]
    line = rf'{folder}/bad.jsonl, line 2: "text" is 1, wanted an object with the string "text"'
    messages = {
        "--runner=x": "--beam: found --runner=x: Unexpected pipeline runner",
        IN_MEMORY: f"data.sources: found {line}$",
    }
    for options, message in messages.items():
        given = parse("prepare", [*flags, "--config.data.vocab=train", f"--beam={options}"])
        with pytest.raises(UserError, match=f"^{message}"):
            COMMANDS["prepare"].run(given)
    assert not (folder / "unwritten").exists()
