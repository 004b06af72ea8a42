"""Paths, locks, whole files, and exceptions of cloud storage."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from etils import epath

from symbert_jax import storage
from symbert_jax.errors import UserError, UserErrors
from symbert_jax.storage import Unreached, absolute, bucket_errors_as_user_errors


class HttpError(Exception):
    """As gcsfs and google-cloud-storage have them."""

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
def test_what_was_raised_and_whether_another_start_may_mend_it(error, message, exit_code) -> None:
    told = pytest.raises(UserError, match=f"^workdir: found gs://b/run: .*{message}")
    with told as raised, bucket_errors_as_user_errors("workdir", epath.Path("gs://b/run"), "a bucket"):
        raise error
    assert raised.value.exit_code == exit_code


def test_mistakes_of_ours_and_disks_stay_as_they_are() -> None:
    for error, path in ((UserError("a", "b", "c"), "gs://b/run"), (OSError("full"), "/run")):
        with pytest.raises(type(error)) as raised, bucket_errors_as_user_errors("workdir", path, "a bucket"):
            raise error
        assert raised.value is error


def test_of_several_errors_one_that_stays_is_enough_not_to_start_again() -> None:
    stays, passes = UserError("a", "b", "c"), Unreached("a", "b", "c")
    assert UserErrors([passes]).exit_code == 1 and UserErrors([passes, stays]).exit_code == 2


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("gs://bucket/runs/../a", "gs://bucket/runs/../a"),
        ("~/runs", str(Path.home() / "runs")),
        ("runs/../a", str(Path.cwd() / "a")),
        ("/runs", "/runs"),
    ],
)
def test_local_paths_become_absolute_and_buckets_stay_as_they_are(path: str, wanted: str) -> None:
    assert str(absolute(path)) == wanted
    assert absolute(epath.Path(path)) == absolute(path)


def test_the_lock_of_a_bucket(bucket, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Held, left by a process that is gone, left by another host, and lost."""
    folder, held = epath.Path("gs://b/run"), "gs://b/run/.lock"
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(storage, "LEASE", 0.6)
    with storage.lock(folder, "workdir"):
        monkeypatch.setattr(storage, "_host", lambda: "other (pid:[1])")  # from where the next one comes
        message = rf"^workdir: found gs://b/run, in use by process {os.getpid()} on \S+ since 2.*, wanted a folder that"
        with pytest.raises(UserError, match=message), storage.lock(folder, "workdir"):
            pass
        assert "waiting" in capsys.readouterr().out
        stale = bucket.cat_file(held)
    assert not bucket.exists(held) and not ended
    bucket.pipe_file(held, stale)
    with storage.lock(folder, "workdir"):
        assert "waiting" in capsys.readouterr().out and bucket.cat_file(held) != stale
    gone = subprocess.Popen(["true"])
    gone.wait()
    bucket.pipe_file(held, json.dumps({"host": "other (pid:[1])", "process": gone.pid}).encode())
    with storage.lock(folder, "workdir"):
        assert not capsys.readouterr().out, "it does not wait"
        bucket.pipe_file(held, stale)
        while not ended:
            time.sleep(0.01)
    assert set(ended) == {1} and f"error: {folder} was taken over by another run" in capsys.readouterr().err
    with (
        pytest.raises(UserError, match="s3://b/run, wanted a folder of a disk or gs://"),
        storage.lock("s3://b/run", "x"),
    ):
        pass
