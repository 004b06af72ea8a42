"""Converts exceptions of cloud storage to `UserError`, and checks that a bucket can be used."""

import contextlib
import logging
import os
import uuid
from collections.abc import Iterator

from etils import epath

from symbert_jax.errors import UserError
from symbert_jax.storage.paths import is_bucket

PACKAGES_HINT = "pip install gcsfs google-cloud-storage"
ACCESS_HINT = (
    "check its name, the credentials, and their roles: storage.objectAdmin, and for a workdir legacyBucketReader too"
)

logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # gcsfs logs every exception that it raises and every retry


class UnreachableBucket(UserError):
    """A bucket could not be reached. A later start may succeed, so the exit code asks a launcher for one."""

    exit_code = 1


@contextlib.contextmanager
def bucket_errors_as_user_errors(field: str, path: epath.PathLike, wanted: str) -> Iterator[None]:
    """Converts all exceptions to `UserError` if `path` is in a bucket; otherwise, exceptions pass through.

    field, wanted: parts of the `UserError`, which says that `path` and the exception were found.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # no narrower type: gcsfs's HttpError is not an OSError
        if not is_bucket(path):
            raise
        found = " ".join(f"{path}: {type(error).__name__}: {error}".split())
        if isinstance(error, ImportError):
            hint = PACKAGES_HINT if os.fspath(path).startswith("gs://") else ""
            raise UserError(field, found, "the packages for buckets", hint) from error
        refused = getattr(error, "code", None) in range(400, 500)  # HTTP status; gcsfs's errors 403 and 404 have none
        refused |= isinstance(error, FileNotFoundError) or str(error).startswith("Forbidden")
        raise (UserError if refused else UnreachableBucket)(field, found, wanted, ACCESS_HINT) from error


def check_google_bucket(folder: epath.Path, field: str) -> None:
    """Raises `UserError` if a folder is not in gs://, the only buckets that Orbax can write to."""
    if not os.fspath(folder).startswith("gs://"):
        raise UserError(field, os.fspath(folder), "a folder on a disk or gs://BUCKET/FOLDER")


def check_writable_bucket(workdir: epath.Path) -> None:
    """Reads the metadata of the bucket of a workdir, and writes and removes an object. The workdir need not exist.

    Raises:
      UserError: the workdir is not in gs://, or a request fails.
    """
    check_google_bucket(workdir, "workdir")
    with bucket_errors_as_user_errors("workdir", workdir, "a bucket that can be read and written"):
        from google.cloud import storage  # TensorBoard's writer and Orbax need it

        # Orbax makes this request, too. It needs a role for the bucket; roles for objects do not allow it.
        storage.Client().get_bucket(os.fspath(workdir).split("/")[2])
        probe = workdir / f".symbert_jax_{uuid.uuid4().hex}"
        probe.write_text("")
        probe.unlink()


def find_in_bucket(location: str) -> tuple[dict[str, int], bool]:
    """Returns the sizes in bytes, by URL, of the objects that a location in a bucket names; and whether it is a folder.

    location: an object; a folder, for all objects below it; or a pattern, where ** stands for any number of folders. A
      location that exists is never a pattern.
    """
    import fsspec

    system, path = fsspec.core.url_to_fs(location)
    system.invalidate_cache()
    is_folder = system.isdir(path)
    if is_folder:
        found = system.find(path, detail=True)
    elif system.exists(path):
        found = {path: system.info(path)}
    else:
        found = system.glob(path, detail=True)
    scheme = location.partition("://")[0]
    objects = {name.lstrip("/"): info for name, info in found.items() if info["type"] == "file"}
    return {f"{scheme}://{name}": info["size"] for name, info in objects.items()}, is_folder
