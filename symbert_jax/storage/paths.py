"""Paths as users write them, and the cache in their home directory."""

import os
from pathlib import Path

from etils import epath

from symbert_jax.errors import UserError


def is_bucket(path: epath.PathLike) -> bool:
    """Whether a path has a scheme (gs://…), and so is in a bucket rather than on a disk."""
    return "://" in os.fspath(path)


def user_cache(name: str) -> Path:
    """Returns a folder of this package in the user's cache, which is $XDG_CACHE_HOME or else ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "symbert_jax", name).expanduser()


def absolute(path: epath.PathLike, field: str = "path") -> epath.Path:
    """Returns an absolute path without `~` and symbolic links; a path in a bucket stays as it is.

    field: names the path in errors.

    Raises:
      UserError: the path is empty, contains a null character, has a scheme that etils does not know, names a `~user`
        who does not exist, cannot be resolved, or is a local path that etils takes for a bucket: /gs/… for gs://….
    """
    text = os.fspath(path)
    if not text or "\0" in text:
        raise UserError(field, repr(text), "a path")
    if is_bucket(text):
        try:
            return epath.Path(text)
        except (KeyError, ValueError, ImportError):  # etils does not know the scheme
            raise UserError(field, repr(text), "a path on a disk or gs://BUCKET/FOLDER") from None
    try:
        full = os.path.realpath(Path(text).expanduser())
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: no such user
        raise UserError(field, f"{text!r}: {error}", "a path") from None
    if is_bucket(found := epath.Path(full)):
        raise UserError(field, f"{full}, which reads as {found}", "a path on a disk", "mount the disk elsewhere")
    return found
