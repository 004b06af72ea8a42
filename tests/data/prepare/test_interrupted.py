"""If `prepare` meets another run, a full disk or a signal, the corpus is whole or does not exist."""

import contextlib
import dataclasses
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from symbert_jax.data import rows, sources
from symbert_jax.data.manifest import is_finished, read_manifest
from symbert_jax.data.prepare import command, runs
from symbert_jax.data.prepare.command import prepare
from symbert_jax.errors import UserError
from tests.command_line import ROOT
from tests.data.texts import distinct_texts, expected_stream, make_config, read_stream

PREPARE_HALF = """
import sys
from pathlib import Path
from symbert_jax.data import sources
from symbert_jax.data.prepare import runs
from symbert_jax.data.prepare.command import prepare
from tests.data.texts import distinct_texts, make_config

def read(shard):
    for number, text in enumerate(distinct_texts(200)):
        if number == 150:
            print("half", flush=True)
            sys.stdin.readline()
        yield text

config = make_config(Path(sys.argv[1]), distinct_texts(200))
runs._RUN_BYTES = 100
sources.read = read
prepare(config)
"""


def test_prepare_refuses_a_running_and_replaces_a_killed_run(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PREPARE_HALF, tmp_path]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "half\n"
        message = rf"data.dir: found .*/corpus.incomplete, in use by process {other.pid} on .* since .*; wait until it"
        with pytest.raises(UserError, match=message):
            prepare(make_config(tmp_path, distinct_texts(200)))
        other.kill()
    assert list(tmp_path.glob("corpus.incomplete/unfinished/runs/*"))
    with pytest.raises(UserError, match="no finished corpus"):
        read_manifest(tmp_path / "corpus")
    (tmp_path / "corpus.incomplete" / "folder").mkdir()  # is removed like the files
    prepare(make_config(tmp_path, distinct_texts(200)))
    found = read_stream(tmp_path, "train")
    assert found == expected_stream(tmp_path, distinct_texts(200))[: len(found)]
    assert not (tmp_path / "corpus.incomplete").exists()


def contents(folder: Path) -> dict[str, bytes]:
    """Returns the files of a corpus."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_two_runs_at_once_prepare_the_same_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, read = make_config(tmp_path, distinct_texts(200)), sources.read
    is_half_read, is_refused = Event(), Event()
    prepare(dataclasses.replace(config, data=dataclasses.replace(config.data, dir=str(tmp_path / "alone"))))

    def read_slowly(shard: sources.Shard):
        for number, text in enumerate(read(shard)):
            if number == 100:
                is_half_read.set()
                assert is_refused.wait(60)
            yield text

    with ThreadPoolExecutor() as pool, monkeypatch.context() as patch:
        patch.setattr(sources, "read", read_slowly)
        other = pool.submit(prepare, config)
        assert is_half_read.wait(60)
        with pytest.raises(UserError, match=rf"corpus.incomplete, in use by process {os.getpid()} on "):
            prepare(config)
        is_refused.set()
        other.result()
    assert contents(tmp_path / "corpus") == contents(tmp_path / "alone")

    # The first answer of `is_finished` is False, as if the other run finished the corpus just afterwards.
    answers = [False]
    monkeypatch.setattr(command, "is_finished", lambda folder: answers.pop() if answers else is_finished(folder))
    capsys.readouterr()
    prepare(config)
    assert capsys.readouterr().out == f"{tmp_path}/corpus is already prepared\n"
    assert not (tmp_path / "corpus.incomplete").exists()
    assert contents(tmp_path / "corpus") == contents(tmp_path / "alone")


def test_prepare_continues_after_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class WriterToFullDisk:
        def __init__(self, path: str, options: str):
            del options
            Path(path).write_bytes(b"half a row")
            self.path = path

        def write(self, _: bytes) -> None:
            raise RuntimeError(f"write() failed: No space left on device; writing {self.path}")

    def read_never(_: object):
        raise AssertionError("read again")

    def fail(*_: object):
        raise OSError(errno.ENOSPC, "No space left on device")

    config = make_config(tmp_path, distinct_texts(30))
    with monkeypatch.context() as patch:
        patch.setattr(runs, "_write_run", fail)
        with pytest.raises(OSError, match=r"No space left on device: .*/unfinished/runs/00000-000000"):
            prepare(config)
    with monkeypatch.context() as patch:
        patch.setattr(rows, "ArrayRecordWriter", WriterToFullDisk)
        with pytest.raises(UserError, match=r"data.dir: found .* No space left .*array_record-00000.*, wanted a disk"):
            prepare(config)
    assert not (tmp_path / "corpus").exists()
    monkeypatch.setattr(sources, "read", read_never)
    prepare(config)
    found = read_stream(tmp_path, "train")
    assert found == expected_stream(tmp_path, distinct_texts(30))[: len(found)]
    assert [path.name for path in tmp_path.glob("corpus*")] == ["corpus"]


def processes_of(session: int) -> list[int]:
    """Returns the ids of the running processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, its_session, *_ = stat.read_text().rsplit(")", 1)[1].split()
            if int(its_session) == session and state != "Z":
                found.append(int(stat.parent.name))
    return found


@pytest.mark.parametrize(
    ("number", "send", "code", "output"),
    [
        (signal.SIGTERM, os.kill, 143, ""),
        (signal.SIGINT, os.killpg, 130, "error: interrupted\n"),
        (signal.SIGKILL, os.kill, -9, ""),
    ],
)
def test_signal_ends_the_worker_processes(
    number: int, send: Callable[[int, int], None], code: int, output: str, tmp_path: Path
) -> None:
    """Reading `python-docs` starts further processes. Of these signals, only SIGINT is sent to the workers, too."""
    fields = {"dir": f"{tmp_path}/corpus", "sources": "python-docs:stdlib", "workers": 2}
    flags = [f"--config.data.{name}={value}" for name, value in fields.items()]
    command = [sys.executable, "-m", "symbert_jax", "prepare", "--config=configs/tiny.py", *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes) as process:
        while len(processes_of(process.pid)) < 5:  # this one, one of multiprocessing, two workers, one that parses
            assert process.poll() is None
            time.sleep(0.02)
        send(process.pid, number)
        found = process.communicate(timeout=60)[0]
    assert process.returncode == code
    assert found == output or code == -signal.SIGKILL  # multiprocessing then tells that it cleans up
    deadline = time.monotonic() + 30
    while processes_of(process.pid):
        assert time.monotonic() < deadline, "a worker still runs"
        time.sleep(0.02)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.incomplete"]
