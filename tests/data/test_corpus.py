"""`prepare` from documents to rows and back, its counts, its errors, and what a killed run leaves."""

import contextlib
import dataclasses
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st

from symbert_jax.config import Config, DataConfig, ModelConfig
from symbert_jax.data import corpus, rows, sources, tokenizer
from symbert_jax.data.vocabulary import SPECIAL
from symbert_jax.errors import UserError
from symbert_jax.storage import sha256
from tests.command_line import ROOT, run_commands

VOCABULARY = [*SPECIAL, "a", "b", "c", "##a", "##b", "[", "]", "sep"]
CLS, SEP = 2, 3
LENGTH = 8


def configure(folder: Path, *files: list[str], fraction: float = 0.0, length: int = LENGTH) -> Config:
    """A config for a corpus in `folder`/corpus; each of `files` is the documents of one JSON lines source."""
    for number, texts in enumerate(files):
        lines = (json.dumps({"text": text}) + "\n" for text in texts)
        (folder / f"{number}.jsonl").write_text("".join(lines))
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCABULARY))
    data = DataConfig(
        dir=str(folder / "corpus"),
        sources=tuple(f"jsonl:{folder}/{number}.jsonl" for number in range(len(files))),
        vocab=str(folder / "vocab.txt"),
        validation_fraction=fraction,
    )
    return Config(model=ModelConfig(length=length, vocab_size=len(VOCABULARY)), data=data)


def stream(folder: Path, split: str) -> list[int]:
    """The tokens of all rows without their frames, read as any user of TFDS would."""
    source = tfds.builder_from_directory(folder / "corpus").as_data_source(split)
    read = [source[i]["tokens"] for i in range(len(source))]
    assert all(row.dtype == np.uint16 and row.shape == (LENGTH,) for row in read)
    assert all((row[0], row[-1]) == (CLS, SEP) for row in read)
    return [int(token) for row in read for token in row[1:-1]]


def expected(folder: Path, texts: list[str]) -> list[int]:
    """What the stream of the distinct `texts` begins with."""
    encoder = tokenizer.load(folder / "vocab.txt", parse_special=False)
    ids = (encoder.encode(text, add_special_tokens=False).ids for text in dict.fromkeys(texts))
    return [token for own in ids if own for token in [*own, SEP]]


def many(count: int) -> list[str]:
    """Different documents of 10 tokens."""
    return [" ".join(f"{i:010b}".replace("0", "a").replace("1", "b")) for i in range(count)]


TEXTS = st.lists(
    st.text("abc [SEP]\n\x00é", max_size=40) | st.sampled_from(["[SEP]", "[CLS] a", "\x01", "abab" * 30]),
    max_size=20,
)


@settings(max_examples=40, deadline=None)
@given(texts=TEXTS, batch=st.integers(1, 200), piece=st.integers(1, 20))
def test_rows_give_every_document_back_in_order(texts: list[str], batch: int, piece: int) -> None:
    texts = [*texts, "a " * LENGTH]
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "_BATCH", batch)
        patch.setattr(corpus, "_PIECE", piece)
        folder = Path(name)
        corpus.prepare(configure(folder, texts))
        wanted, found = expected(folder, texts), stream(folder, "train")
        assert found == wanted[: len(found)]
        assert len(wanted) - len(found) < LENGTH - 2
        counts = manifest(folder)["splits"]["train"]
        assert counts["tail_tokens_dropped"] == len(wanted) - len(found)
        assert counts["documents"] == wanted.count(SEP)
        assert counts["tokens"] == len(wanted) - wanted.count(SEP)
        assert counts["rows"] * (LENGTH - 2) == len(found)


def documents(folder: Path, split: str) -> list[tuple[int, ...]]:
    tokens = stream(folder, split)
    ends = [i for i, token in enumerate(tokens) if token == SEP]
    return [tuple(tokens[start:end]) for start, end in zip([0, *(end + 1 for end in ends)], ends, strict=False)]


def test_validation_is_chosen_by_the_text_alone(tmp_path: Path) -> None:
    texts = many(400)
    splits = []
    for name, order in ("forth", texts), ("back", texts[::-1]):
        folder = tmp_path / name
        folder.mkdir()
        corpus.prepare(configure(folder, order, fraction=0.25))
        splits.append({split: documents(folder, split) for split in rows.SPLITS})
    forth, back = splits
    assert 60 < len(forth["validation"]) < 140
    assert not set(forth["validation"]) & set(forth["train"])
    lost = 400 - len(forth["validation"]) - len(forth["train"])
    assert lost <= 2  # the ends that fill no row
    assert len(set(forth["validation"]) ^ set(back["validation"])) <= 2


def manifest(folder: Path) -> dict[str, Any]:
    """What people read of the corpus in `folder`/corpus."""
    return rows.read_manifest(folder / "corpus").content


def test_the_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = configure(tmp_path, ["a b", "a b", "c"], ["c x", "b " * 30, "\x01"])
    corpus.prepare(config)
    noted = manifest(tmp_path)
    first, second = config.data.sources
    assert noted["sources"] == [first, second]
    assert noted["documents"] == {first: 2, second: 2}
    assert noted["duplicates"] == {first: 1, second: 0}
    train = {"documents": 4, "rows": 6, "tokens": 35, "tail_tokens_dropped": 3}
    shares = {"unk_tokens": 1, "unk_share": 0.0286, "most_maskable": 6, "fewest_maskable": 4}
    assert noted["splits"]["train"] == train | shares
    assert noted["splits"]["validation"]["rows"] == 0
    assert noted["length"] == LENGTH
    assert noted["vocab_sha256"] == sha256(tmp_path / "corpus" / rows.VOCAB)
    assert set(noted["versions"]) == {"symbert_jax", "tokenizers", "tensorflow-datasets"}
    out, err = capsys.readouterr()
    assert "6 rows of 8 tokens to train and 0 to validate from 4 documents, 1 duplicates dropped, 2.86% of the" in out
    assert not err
    assert sorted(path.name for path in tmp_path.glob("corpus*")) == ["corpus"]
    names = ["corpus-train.array_record-00000", "dataset_info.json", "features.json", "vocab.txt"]
    files = {path.name: path for path in (tmp_path / "corpus").iterdir() if path.name != rows.MANIFEST}
    assert sorted(files) == names
    assert noted["files"] == {
        name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for name, path in files.items()
    }


def test_vocabulary_that_does_not_know_the_text_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus.prepare(configure(tmp_path, ["a b c 中文 中文 x", "x y z " * 10]))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "warning: data.vocab: found 92.1% of the tokens of a split are [UNK], wanted at most 5%; pre"
    )
    assert manifest(tmp_path)["splits"]["train"]["unk_share"] == 0.9211


def test_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_SHARD", 1000)
    texts = many(200)
    corpus.prepare(configure(tmp_path, texts))
    assert len(list(tmp_path.glob("corpus/*array_record*"))) > 5
    found = stream(tmp_path, "train")
    assert found == expected(tmp_path, texts)[: len(found)]


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The documents between being read and being written are the same few for a corpus ten times the size."""

    def held(count: int) -> int:
        """The most of `count` documents at one moment."""
        read, written, most = 0, 0, 0

        class Writer(rows.Writer):
            def add(self, tokens: np.ndarray) -> None:
                nonlocal written, most
                most = max(most, read - written)
                written += int(np.sum(tokens == SEP))
                super().add(tokens)

        def documents(_: str):
            nonlocal read
            for text in many(count):
                read += 1
                yield text

        folder = tmp_path / str(count)
        folder.mkdir()
        config = configure(folder, many(1))
        with monkeypatch.context() as patch:
            patch.setattr(corpus, "_BATCH", 200)
            patch.setattr(corpus.rows, "Writer", Writer)
            patch.setattr(corpus.sources, "documents", documents)
            corpus.prepare(config)
        assert (written, read) == (count, count)
        return most

    assert 0 < held(1000) == held(100) < 50


def test_a_trained_vocabulary(tmp_path: Path) -> None:
    config = configure(tmp_path, many(30))
    data = DataConfig(dir=config.data.dir, sources=config.data.sources, vocab="train", validation_fraction=0.0)
    corpus.prepare(Config(model=ModelConfig(length=LENGTH, vocab_size=64), data=data))
    words = (tmp_path / "corpus" / rows.VOCAB).read_text().split()
    assert words[:5] == list(SPECIAL)
    assert "[UNK]" not in [words[token] for token in stream(tmp_path, "train")]


def test_progress_where_there_is_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(corpus, "_LINE_INTERVAL", 0)
    corpus.prepare(configure(tmp_path, many(30)))
    assert " documents/s, " in capsys.readouterr().out


def test_a_prepared_corpus_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = configure(tmp_path, many(30))
    corpus.prepare(config)
    before = (tmp_path / "corpus" / rows.MANIFEST).stat().st_mtime_ns
    capsys.readouterr()
    corpus.prepare(config)
    assert capsys.readouterr().out == f"{tmp_path}/corpus is already prepared\n"
    assert (tmp_path / "corpus" / rows.MANIFEST).stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "change, message",
    [
        ({"length": 16}, r"model.length: found 16 for .*corpus, .*, wanted 8; remove"),
        ({"fraction": 0.5}, r"data.validation_fraction: found 0.5 for .*, wanted 0.0"),
        ({"sources": ("python-docs",)}, r"data.sources: found \['python-docs'\] for .*, wanted \['jsonl:"),
        ({"vocab": "train"}, r"data.vocab: found train 13 for .*, wanted sha256 "),
    ],
)
def test_another_corpus_is_not_taken_for_this_one(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = configure(tmp_path, many(30))
    corpus.prepare(config)
    data = DataConfig(
        dir=config.data.dir,
        sources=change.get("sources", config.data.sources),
        vocab=change.get("vocab", config.data.vocab),
        validation_fraction=change.get("fraction", 0.0),
    )
    model = ModelConfig(length=change.get("length", LENGTH), vocab_size=config.model.vocab_size)
    with pytest.raises(UserError, match=message):
        corpus.prepare(Config(model=model, data=data))


def test_a_folder_of_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"data.dir: found .*corpus, which is no corpus"):
        corpus.prepare(configure(tmp_path, many(30)))
    assert (tmp_path / "corpus" / "thesis.tex").exists()


@pytest.mark.parametrize(
    "texts, fraction, message",
    [
        ([], 0.0, r"data.sources: found no document in jsonl:"),
        (
            ["\x01"],
            0.0,
            r"data.sources: found 0 tokens of training text, wanted enough for a row of model.length=8",
        ),
        (["a b c"], 0.0, r"data.sources: found 3 tokens of training text, wanted enough"),
        (
            many(30),
            1e-9,
            r"data.validation_fraction: found 1e-09, which chose 0 of 30 documents, wanted enough",
        ),
    ],
)
def test_too_little_text(texts: list[str], fraction: float, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        corpus.prepare(configure(tmp_path, texts, fraction=fraction))
    assert not (tmp_path / "corpus").exists()


def test_a_bucket_is_read_but_not_written() -> None:
    with pytest.raises(UserError, match=r"data.dir: found gs://bucket/corpus, wanted a local folder; prepare into one"):
        corpus.prepare(Config(data=DataConfig(dir="gs://bucket/corpus")))


def test_no_sources(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.sources: found none, wanted at least one"):
        corpus.prepare(configure(tmp_path))


def test_a_missing_source_fails_before_the_first_is_read(tmp_path: Path) -> None:
    config = configure(tmp_path, ["damaged"])
    (tmp_path / "0.jsonl").write_text("damaged")
    sources = (*config.data.sources, f"text:{tmp_path}/*.none")
    data = DataConfig(dir=config.data.dir, sources=sources, vocab=config.data.vocab)
    with pytest.raises(UserError, match=r"data.sources: found no file .*\.none"):
        corpus.prepare(Config(model=config.model, data=data))


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    with pytest.raises(UserError, match=r"data.dir: found no finished corpus in .*; run `python -m symbert_jax prep"):
        rows.open_split(folder, "train", LENGTH)
    corpus.prepare(configure(tmp_path, many(30)))
    with pytest.raises(UserError, match=r"model.length: found 512, wanted 8, the length of the rows in .*corpus"):
        rows.open_split(folder, "train", 512)
    with pytest.raises(UserError, match=r"data.dir: found no validation rows in .*; raise data.validation_fraction"):
        rows.open_split(folder, "validation", LENGTH)
    assert len(rows.open_split(folder, "train", LENGTH)) == 30 * 11 // 6


OTHER = """
import sys
from pathlib import Path
from symbert_jax.data import corpus, sources
sys.path.insert(0, sys.argv[2])
from test_corpus import configure, many

def documents(source):
    for number, text in enumerate(many(200)):
        if number == 150:
            print("half", flush=True)
            sys.stdin.readline()
        yield text

config = configure(Path(sys.argv[1]), many(200))
corpus._BATCH = 100
sources.documents = documents
corpus.prepare(config)
"""


def test_a_run_is_kept_out_by_another_and_goes_on_when_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OTHER, tmp_path, Path(__file__).parent]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "half\n"
        message = rf"data.dir: found .*/corpus.incomplete, in use by process {other.pid} on .* since .*; wait until it"
        with pytest.raises(UserError, match=message):
            corpus.prepare(configure(tmp_path, many(200)))
        other.kill()
    assert list(tmp_path.glob("corpus.incomplete/*array_record*"))
    with pytest.raises(UserError, match="no finished corpus"):
        rows.open_split(tmp_path / "corpus", "train", LENGTH)
    (tmp_path / "corpus.incomplete" / "folder").mkdir()
    corpus.prepare(configure(tmp_path, many(200)))
    found = stream(tmp_path, "train")
    assert found == expected(tmp_path, many(200))[: len(found)]
    assert not (tmp_path / "corpus.incomplete").exists()


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a corpus but the manifest, which holds the time it took."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != rows.MANIFEST}


def test_of_two_runs_one_prepares_what_it_prepares_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, half, refused, documents = configure(tmp_path, many(200)), Event(), Event(), sources.documents
    corpus.prepare(dataclasses.replace(config, data=dataclasses.replace(config.data, dir=str(tmp_path / "alone"))))

    def slow(source: str):
        for number, text in enumerate(documents(source)):
            if number == 100:
                half.set()
                assert refused.wait(60)
            yield text

    with ThreadPoolExecutor() as pool, monkeypatch.context() as patch:
        patch.setattr(corpus.sources, "documents", slow)
        other = pool.submit(corpus.prepare, config)
        assert half.wait(60)
        with pytest.raises(UserError, match=rf"corpus.incomplete, in use by process {os.getpid()} on "):
            corpus.prepare(config)
        refused.set()
        other.result()
    assert content(tmp_path / "corpus") == content(tmp_path / "alone")

    # a run that looked before the other was done
    finished, answers = rows.is_finished, [False]
    monkeypatch.setattr(rows, "is_finished", lambda folder: answers.pop() if answers else finished(folder))
    capsys.readouterr()
    corpus.prepare(config)
    assert capsys.readouterr().out == f"{tmp_path}/corpus is already prepared\n"
    assert not (tmp_path / "corpus.incomplete").exists()
    assert content(tmp_path / "corpus") == content(tmp_path / "alone")


def test_a_disk_that_is_full_is_one_line_and_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __init__(self, path: str, options: str):
            del options
            Path(path).write_bytes(b"half a row")
            self.path = path

        def write(self, _: bytes) -> None:
            raise RuntimeError(f"write() failed: No space left on device; writing {self.path}")

    with monkeypatch.context() as patch:
        patch.setattr(rows, "ArrayRecordWriter", Full)
        with pytest.raises(UserError, match=r"data.dir: found .* No space left .*array_record-00000, wanted a disk"):
            corpus.prepare(configure(tmp_path, many(30)))
    assert not list(tmp_path.glob("corpus*"))

    def full(*_: object, **__: object):
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(corpus.sqlite3, "connect", full)
        with pytest.raises(UserError, match=r"data.dir: found .*digests.sqlite: database or disk is full, wanted a"):
            corpus.prepare(configure(tmp_path, many(30)))
    assert not list(tmp_path.glob("corpus*"))


def test_paths_of_a_corpus_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(tmp_path, many(30))
    (tmp_path / "0.jsonl").rename(tmp_path / "a, [b].jsonl")
    (tmp_path / "file").touch()
    (tmp_path / "ünïcode [x]").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "corpus")
    wrong = {
        ".": f"data.dir: found {tmp_path}, which is no corpus, wanted a path where nothing is yet",
        "/": "data.dir: found /, which is no corpus, wanted a path where nothing is yet",
        "": "data.dir: found '', wanted a path",
        "file": f"data.dir: found {tmp_path}/file, which is no corpus",
        "file/x": f"data.dir: found {tmp_path}/file/x.incomplete: Not a directory, wanted a folder that can be written",
        "/proc/x": "data.dir: found /proc/x.incomplete: No such file or directory, wanted a folder that can be written",
        "~nobody_here/x": "data.dir: found '~nobody_here/x': ",
        "x" * 250: "File name too long",
        "not \udcff UTF-8": f"data.dir: found {tmp_path}/not \\udcff UTF-8, wanted a path in UTF-8",
    }
    right = {"~/ünïcode [x]/a": "ünïcode [x]/a", "ünïcode [x]/b": "ünïcode [x]/b", "link": "nowhere/corpus"}
    flags = (
        "model.length=8",
        f"model.vocab_size={len(VOCABULARY)}",
        "data.validation_fraction=0",
        "data.vocab=~/vocab.txt",
    )
    command = ["prepare", f"--config={ROOT}/configs/tiny.py", *(f"--config.{flag}" for flag in flags)]
    command += ["--config.data.sources", '"jsonl:~/a, [b].jsonl"']
    results = run_commands(
        [[*command, f"--config.data.dir={folder}"] for folder in (*wrong, *right)],
        **{
            "imports": ["jax", "symbert_jax.data.corpus"],
            "cwd": tmp_path,
            "HOME": str(tmp_path),
            "JAX_PLATFORMS": "cpu",
        },
    )
    for (folder, message), result in zip(wrong.items(), results, strict=False):
        assert result.returncode == 2 and len(result.stderr.splitlines()) == 1, (folder, result)
        assert message in result.stderr and not result.stdout, (folder, result)
    for (folder, path), result in zip(right.items(), results[len(wrong) :], strict=True):
        assert result.returncode == 0 and not result.stderr, (folder, result)
        assert rows.is_finished(tmp_path / path)
    assert not list(tmp_path.glob("**/*.incomplete")) and not (tmp_path / "~").exists()


def running(session: int) -> list[int]:
    """The processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, owner, *_ = stat.read_text().rsplit(")", 1)[1].split()
            if int(owner) == session and state != "Z":
                found.append(int(stat.parent.name))
    return found


READER = """
from symbert_jax.data.sources import python_docs
try:
    list(python_docs.documents(installed=False))
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize(
    ("number", "whom", "code", "told"),
    [
        (signal.SIGTERM, os.kill, 143, ""),
        (signal.SIGINT, os.killpg, 0, "interrupted\n"),
        (signal.SIGKILL, os.kill, -9, ""),
    ],
)
def test_workers_end_with_the_run(
    number: int, whom: Callable[[int, int], None], code: int, told: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", READER]
    if number == signal.SIGTERM:
        changes = (f"--config.data.dir={tmp_path}/corpus", "--config.data.sources=python-docs:stdlib")
        command = [sys.executable, "-m", "symbert_jax", "prepare", "--config=configs/tiny.py", *changes]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes) as process:
        while len(running(process.pid)) < 2:
            assert process.poll() is None
            time.sleep(0.02)
        whom(process.pid, number)
        found = process.communicate(timeout=60)[0]
    assert (process.returncode, found) == (code, told)
    deadline = time.monotonic() + 30
    while running(process.pid):
        assert time.monotonic() < deadline, "a worker goes on"
        time.sleep(0.02)
    assert not list(tmp_path.iterdir())


APART = """
import sys
from pathlib import Path
from symbert_jax.data import rows
assert len(rows.open_split(Path(sys.argv[1]), "train", 8)[0]["tokens"]) == 8
assert "tokenizers" not in sys.modules, "reading rows needs no tokenizer"
from symbert_jax.data import corpus, sources
assert list(sources.documents(f"bookcorpus:{sys.argv[2]}")) == ["a book"]
assert not {"tensorflow", "torch"} & set(sys.modules)
"""


def test_no_tensorflow_and_no_tokenizers_in_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    corpus.prepare(configure(tmp_path, many(30)))
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "a.txt").write_text("a book")
    subprocess.run([sys.executable, "-c", APART, tmp_path / "corpus", tmp_path / "books"], check=True, timeout=60)
