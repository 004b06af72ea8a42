"""Files in a folder that all workers of a cluster share, on a disk or in a bucket.

A worker may be killed at any moment, and several may write the same file: a runner repeats work that failed, or that is
slow. So a file appears whole or not at all, and every attempt writes the same bytes.
"""

import tempfile
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from etils import epath

from symbert_jax.storage import add_path_to_os_errors, is_bucket

T = TypeVar("T")

_REQUESTS = 32  # files that are read at the same time; a bucket takes a tenth of a second for each


def publish(path: epath.Path, attempts: epath.Path, write: Callable[[Path], T]) -> T:
    """Calls `write` with a path of this attempt alone, then moves the file that it has written to `path`.

    attempts: a folder on the same disk, which keeps the files of attempts that are killed; for a bucket not used.
    """
    if is_bucket(path):
        with tempfile.TemporaryDirectory() as folder:
            written = Path(folder, path.name)
            result = write(written)
            epath.Path(written).copy(path, overwrite=True)  # an object appears when it is complete
        return result
    attempt = Path(attempts, uuid.uuid4().hex)
    with add_path_to_os_errors(path):
        result = write(attempt)
        attempt.replace(path)
    return result


def read_all(paths: Iterable[epath.Path]) -> list[bytes]:
    """Returns the contents of files, in order."""
    with ThreadPoolExecutor(_REQUESTS) as pool:
        return list(pool.map(lambda path: path.read_bytes(), paths))
