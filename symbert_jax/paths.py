"""Paths as users write them."""

import os

from etils import epath


def is_bucket(path: epath.PathLike) -> bool:
    """Whether a path is of a bucket (gs://…) rather than of a disk."""
    return "://" in os.fspath(path)


def absolute(path: epath.PathLike) -> epath.Path:
    """From the root, with `~` expanded; a bucket's path is absolute already, and `resolve` would spoil it."""
    return epath.Path(path) if is_bucket(path) else epath.Path(path).expanduser().resolve()
