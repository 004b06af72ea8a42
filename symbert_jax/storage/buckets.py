"""Buckets, and the conversion of their libraries' exceptions to `UserError`."""

import contextlib
import logging
import os
import uuid
from collections.abc import Iterator

from etils import epath

from symbert_jax.errors import UserError
from symbert_jax.storage.paths import is_bucket

PACKAGES = "pip install gcsfs google-cloud-storage"
ACCESS = (
    "check its name, the credentials, and their roles: storage.objectAdmin, and for a workdir legacyBucketReader too"
)

logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs what it raises or retries


class Unreached(UserError):
    """A bucket that did not answer. The exit code asks a launcher to start the command again."""

    exit_code = 1


@contextlib.contextmanager
def bucket_errors_as_user_errors(what: str, path: epath.PathLike, wanted: str) -> Iterator[None]:
    """Converts exceptions of cloud storage to `UserError`; exceptions about a path on a disk pass through.

    what, path, wanted: the parts of the error.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # they have no type in common: gcsfs's HttpError is no OSError
        if not is_bucket(path):
            raise
        found = " ".join(f"{path}: {type(error).__name__}: {error}".split())
        if isinstance(error, ImportError):
            hint = PACKAGES if os.fspath(path).startswith("gs://") else ""
            raise UserError(what, found, "the packages for buckets", hint) from error
        refused = getattr(error, "code", None) in range(400, 500)  # of HTTP; gcsfs's 403 and 404 do not carry it
        refused |= isinstance(error, FileNotFoundError) or str(error).startswith("Forbidden")
        raise (UserError if refused else Unreached)(what, found, wanted, ACCESS) from error


def require_google(folder: epath.Path, field: str) -> None:
    """Raises `UserError` for a bucket that Orbax does not write to."""
    if not os.fspath(folder).startswith("gs://"):
        raise UserError(field, os.fspath(folder), "a folder of a disk or gs://BUCKET/FOLDER")


def require_writable_bucket(workdir: epath.Path) -> None:
    """Checks that a bucket answers the requests that a run makes; the workdir may not exist yet.

    Raises:
      UserError: a request fails.
    """
    require_google(workdir, "workdir")
    with bucket_errors_as_user_errors("workdir", workdir, "a bucket that can be read and written"):
        from google.cloud import storage  # which TensorBoard's writer and Orbax need

        storage.Client().get_bucket(os.fspath(workdir).split("/")[2])  # Orbax does, and no role for objects allows it
        probe = workdir / f".symbert_jax_{uuid.uuid4().hex}"
        probe.write_text("")
        probe.unlink()
