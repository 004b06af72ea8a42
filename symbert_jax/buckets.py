"""A bucket that does not do what a run wants of it, said in this project's words."""

import contextlib
import logging
import os
import uuid
from collections.abc import Iterator

from etils import epath

from symbert_jax.errors import UserError
from symbert_jax.paths import is_bucket

PACKAGES = "pip install gcsfs google-cloud-storage"
ACCESS = (
    "mend its name, the credentials, or their roles in it: storage.objectAdmin, and of a workdir legacyBucketReader too"
)

logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it raises what it logs, or mends it


class Unreached(UserError):
    """No answer, or none that says whose fault it is. A launcher that starts again does right."""

    exit_code = 1


@contextlib.contextmanager
def reached(what: str, path: epath.PathLike, wanted: str) -> Iterator[None]:
    """Turns what the libraries of a bucket raise inside into a `UserError`; a path on a disk changes nothing."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # they have no kind in common: gcsfs's HttpError is no OSError
        if not is_bucket(path):
            raise
        found = " ".join(f"{path}: {type(error).__name__}: {error}".split())
        if isinstance(error, ImportError):
            mend = PACKAGES if os.fspath(path).startswith("gs://") else ""
            raise UserError(what, found, "the packages for buckets", mend) from error
        refused = getattr(error, "code", None) in range(400, 500)  # of HTTP, but not in what gcsfs says of 403 and 404
        refused |= isinstance(error, FileNotFoundError) or str(error).startswith("Forbidden")
        raise (UserError if refused else Unreached)(what, found, wanted, ACCESS) from error


def require_writable(workdir: epath.Path) -> None:
    """Does to a bucket what a run will do; objects need no folders, so the workdir may not be there yet.

    Raises:
      UserError: it cannot be done.
    """
    if not os.fspath(workdir).startswith("gs://"):  # which is all that Orbax writes to
        raise UserError("workdir", os.fspath(workdir), "a folder of a disk or gs://BUCKET/FOLDER")
    with reached("workdir", workdir, "a bucket that can be read and written"):
        from google.cloud import storage  # which TensorBoard's writer and Orbax need

        storage.Client().get_bucket(os.fspath(workdir).split("/")[2])  # Orbax does, and no role for objects allows it
        probe = workdir / f".symbert_jax_{uuid.uuid4().hex}"
        probe.write_text("")
        probe.unlink()
