"""Paths, locks, whole files, and exceptions of cloud storage."""

from pathlib import Path

import pytest
from etils import epath

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
