"""Finds the files that a source names, on a disk or in a bucket."""

import glob
import os
from pathlib import Path
from typing import NamedTuple

from symbert_jax.errors import UserError
from symbert_jax.storage import absolute, bucket_errors_as_user_errors, find_in_bucket, is_bucket

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")


class File(NamedTuple):
    path: str
    size: int  # in bytes


def find_files(location: str, endings: tuple[str, ...]) -> list[File]:
    """Returns the files that a location names, sorted by name.

    location: a file; a folder, for all files below it that `has_ending` accepts; or a pattern, where ** stands for any
      number of folders. A path that exists is never a pattern, whatever characters it has.

    Raises:
      UserError: the location names no file, or the bucket cannot be read.
    """
    if is_bucket(location):
        with bucket_errors_as_user_errors("data.sources", location, "a bucket that can be read"):
            sizes, is_folder = find_in_bucket(location)
        found = [File(path, sizes[path]) for path in sorted(sizes)]
    else:
        path = Path(absolute(location, "data.sources"))
        if is_folder := path.is_dir():
            return [File(os.fspath(file), file.stat().st_size) for file in find_in_folder(path, endings)]
        found = [File(os.fspath(file), file.stat().st_size) for file in _match(path)]
    if is_folder and not (found := [file for file in found if has_ending(file.path, endings)]):
        raise _no_file_with_ending(location, endings)
    if not found:
        raise UserError("data.sources", f"no file {location}", "a file, a directory or a pattern that matches files")
    return found


def find_in_folder(directory: Path, endings: tuple[str, ...]) -> list[Path]:
    """Returns the files below a directory that `has_ending` accepts, sorted; raises `UserError` if there is none."""
    found = [path for path in directory.rglob("*") if has_ending(path.name, endings) and path.is_file()]
    if not found:
        raise _no_file_with_ending(os.fspath(directory), endings)
    return sorted(found)


def has_ending(name: str, endings: tuple[str, ...]) -> bool:
    """Whether a name ends in one of `endings`, in upper or lower case, or in one and that of a compressed file."""
    return name.lower().endswith(tuple(ending + end for ending in endings for end in ("", *COMPRESSIONS)))


def _match(path: Path) -> list[Path]:
    """Returns the file at `path`, or else those that match it as a pattern, sorted."""
    if path.is_file():
        return [path]
    existing = next(parent for parent in path.parents if parent.exists())  # the part that is not a pattern
    pattern = os.path.join(glob.escape(os.fspath(existing)), path.relative_to(existing))
    found = (Path(match) for match in sorted(glob.glob(pattern, recursive=True)))
    return [match for match in found if match.is_file()]


def _no_file_with_ending(location: str, endings: tuple[str, ...]) -> UserError:
    wanted = f"files named *{' or *'.join(endings)}, plain or as {', '.join(COMPRESSIONS[:-1])} or {COMPRESSIONS[-1]}"
    return UserError("data.sources", f"no such file below {location}", wanted)
