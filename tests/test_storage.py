"""Paths are checked, locks exclude other runs, files are whole, and exceptions of cloud storage become `UserError`."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from etils import epath

from symbert_jax.errors import UserError, UserErrors
from symbert_jax.storage import (
    LOCK,
    UnreachableBucket,
    absolute,
    append_json,
    bucket_errors_as_user_errors,
    lock,
    locks,
    read_json,
    write_whole,
)


class HttpError(Exception):
    """Like the exceptions of gcsfs and google-cloud-storage."""

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code = code


@pytest.mark.parametrize(
    ("error", "message", "exit_code"),
    [
        (ImportError("Please install gcsfs"), "wanted the packages for buckets; pip install gcsfs google-cloud", 2),
        (HttpError(401, "Anonymous caller\nhas no access"), "caller has no access, wanted a bucket; check its name", 2),
        (FileNotFoundError("b/run"), "FileNotFoundError: b/run, wanted a bucket; check its name, the credentials", 2),
        (OSError("Forbidden: b/run\nno access"), "OSError: Forbidden: b/run no access, wanted a bucket", 2),
        (HttpError(503, "try again"), "HttpError: try again, wanted a bucket", 1),
        (OSError("unreachable"), "OSError: unreachable, wanted a bucket", 1),
    ],
)
def test_bucket_error_says_whether_a_restart_may_help(error, message, exit_code) -> None:
    expected = pytest.raises(UserError, match=f"^workdir: found gs://b/run: .*{message}")
    with expected as raised, bucket_errors_as_user_errors("workdir", epath.Path("gs://b/run"), "a bucket"):
        raise error
    assert raised.value.exit_code == exit_code


def test_user_errors_and_errors_of_disks_pass_through() -> None:
    for error, path in ((UserError("a", "b", "c"), "gs://b/run"), (OSError("full"), "/run")):
        with pytest.raises(type(error)) as raised, bucket_errors_as_user_errors("workdir", path, "a bucket"):
            raise error
        assert raised.value is error


def test_exit_code_asks_for_a_restart_only_if_all_errors_are_temporary() -> None:
    permanent, temporary = UserError("a", "b", "c"), UnreachableBucket("a", "b", "c")
    assert UserErrors([temporary]).exit_code == 1 and UserErrors([temporary, permanent]).exit_code == 2


HOLD_LOCK = """
import sys, time
from symbert_jax.storage import lock
with lock(sys.argv[1], "workdir"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_lock_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    process = subprocess.Popen([sys.executable, "-c", HOLD_LOCK, folder], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        held = f"workdir: found {folder}, in use by process {process.pid} on {socket.gethostname()} since 20"
        with pytest.raises(UserError, match=re.escape(held)), lock(folder, "workdir"):
            pass
    finally:
        process.kill()
        process.communicate()
    assert (folder / LOCK).exists(), "a killed process leaves the file"
    with lock(folder, "workdir"), pytest.raises(UserError, match=f"by process {os.getpid()}"), lock(folder, "workdir"):
        pass
    assert list(folder.iterdir()) == []


def test_lock_removes_its_folder_only_if_it_is_empty(tmp_path: Path) -> None:
    with lock(tmp_path / "run", "workdir"):
        pass
    assert not (tmp_path / "run").exists()
    with lock(tmp_path / "run", "workdir"):
        (tmp_path / "run" / "result").write_text("")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["result"]


def test_lock_of_a_moved_folder_does_not_lock_its_old_path(tmp_path: Path) -> None:
    """Another run takes the lock of the old path while the first run still holds that of the moved folder."""
    old, new = tmp_path / "work", tmp_path / "done"
    with lock(old, "data.dir"):
        old.rename(new)
        with lock(old, "data.dir"):
            assert (old / LOCK).exists() and (new / LOCK).exists()
    assert not old.exists()


@pytest.mark.parametrize("path", ["file/run", "file"])
def test_lock_of_a_file_is_an_error(path: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"Not a directory|File exists"), lock(tmp_path / path, "workdir"):
        pass


def test_error_of_a_full_disk_names_the_file(tmp_path: Path) -> None:
    for name, write in (("a", append_json), ("b", write_whole)):
        (tmp_path / (name + ".new" * (write == write_whole))).symlink_to("/dev/full")
        with pytest.raises(OSError, match=f"No space left on device: '{tmp_path / name}'"):
            write(epath.Path(tmp_path / name), "x")


def test_read_json_refuses_other_values_and_other_encodings(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    for content, found in {
        b"[1]": "a JSON list",
        b"{": "Expecting property name",
        b"[" * 100_000: "maximum recursion|Expecting value",
        b"1" * 5_000: "Exceeds the limit",
        b"{\xff}": "byte 1 is not UTF-8",
    }.items():
        file.write_bytes(content)
        with pytest.raises(UserError, match=f"^config: found {file}.*({found})"):
            read_json(file, "config")
    file.write_bytes(b"\xef\xbb\xbf{}")
    assert read_json(file, "config") == {}
    for missing in (tmp_path / "b", file / "c", tmp_path):
        with pytest.raises(UserError, match=f"^config: found (no file )?{missing}.*, wanted a readable file"):
            read_json(missing, "config")


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("gs://bucket/runs/../a", "gs://bucket/runs/../a"),
        ("~/runs", str(Path.home() / "runs")),
        ("runs/../a", str(Path.cwd() / "a")),
        ("/runs", "/runs"),
        ("a b/[c]?", str(Path.cwd() / "a b/[c]?")),
    ],
)
def test_absolute_changes_local_paths_and_keeps_buckets(path: str, wanted: str) -> None:
    assert str(absolute(path)) == wanted
    assert absolute(epath.Path(path)) == absolute(path)


@pytest.mark.parametrize("folder", ["gs", "s3"])
def test_absolute_refuses_local_paths_that_read_as_buckets(folder: str) -> None:
    with pytest.raises(UserError, match=f"workdir: found /{folder}/a/b, which reads as {folder}://a/b, wanted "):
        absolute(f"/{folder}/a/b", "workdir")


@pytest.mark.parametrize("path", ["", "a\0b", "~nobody_of_this_name/a"])
def test_absolute_refuses_invalid_paths(path: str) -> None:
    with pytest.raises(UserError, match=r"^data.dir: found .*, wanted a path"):
        absolute(path, "data.dir")


def test_lock_of_a_bucket_is_held_taken_over_and_lost(bucket, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """The lock is held, left by another host, left by a process that has ended, and lost to another run."""
    folder, held = epath.Path("gs://b/run"), "gs://b/run/.lock"
    exit_codes: list[int] = []
    monkeypatch.setattr(os, "_exit", exit_codes.append)
    monkeypatch.setattr(locks, "LEASE", 0.6)
    with lock(folder, "workdir"):
        monkeypatch.setattr(locks, "_host", lambda: "other (pid:[1])")  # the next run is on another host
        message = rf"^workdir: found gs://b/run, in use by process {os.getpid()} on \S+ since 2.*, wanted a folder that"
        with pytest.raises(UserError, match=message), lock(folder, "workdir"):
            pass
        assert "waiting" in capsys.readouterr().out
        stale = bucket.cat_file(held)
    assert not bucket.exists(held) and not exit_codes
    bucket.pipe_file(held, stale)
    with lock(folder, "workdir"):
        assert "waiting" in capsys.readouterr().out and bucket.cat_file(held) != stale
    ended = subprocess.Popen(["true"])
    ended.wait()
    bucket.pipe_file(held, json.dumps({"host": "other (pid:[1])", "process": ended.pid}).encode())
    with lock(folder, "workdir"):
        assert not capsys.readouterr().out, "a lock of a process that has ended is taken over at once"
        bucket.pipe_file(held, stale)
        while not exit_codes:
            time.sleep(0.01)
    assert set(exit_codes) == {1} and f"error: {folder} was taken over by another run" in capsys.readouterr().err
    with (
        pytest.raises(UserError, match="s3://b/run, wanted a folder on a disk or gs://"),
        lock("s3://b/run", "x"),
    ):
        pass
