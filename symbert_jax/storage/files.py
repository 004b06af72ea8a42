"""Files and folders that are written whole or not at all, and read with errors that name them."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath

from symbert_jax.errors import UserError
from symbert_jax.storage.formats import HEAD, LFS_POINTER, MARKUP, check_format
from symbert_jax.storage.locks import LOCK, lock
from symbert_jax.storage.paths import is_bucket


def write_whole(file: epath.Path, content: str | bytes) -> None:
    """Writes a file so that a kill at any moment leaves the old or the new content. Text is written as UTF-8."""
    data = content.encode() if isinstance(content, str) else content
    if is_bucket(file):  # an object is never written in part, and renaming one takes twenty requests
        file.write_bytes(data)
        return
    new = file.with_name(file.name + ".new")
    with add_path_to_os_errors(file), new.open("wb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())
    new.replace(file)


def check_writable(file: epath.Path, field: str) -> None:
    """Creates the folder of `file`; raises `UserError` if `file` cannot be written. Use it before long computations."""
    try:
        existed = file.exists()
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab"):
            pass
        if not existed:
            file.unlink()
    except OSError as error:
        raise UserError(field, f"{file}: {error.strerror or error}", "a file that can be written") from None


def append_json(file: epath.Path, value: Any) -> None:
    """Appends a line of JSON to a file, which is created if it does not exist."""
    text = json.dumps(value) + "\n"
    if is_bucket(file):  # objects cannot be appended to
        write_whole(file, (file.read_text(encoding="utf-8") if file.exists() else "") + text)
    else:
        with add_path_to_os_errors(file), file.open("a", encoding="utf-8") as opened:
            opened.write(text)


@contextlib.contextmanager
def add_path_to_os_errors(path: epath.PathLike) -> Iterator[None]:
    """Adds `path` to an `OSError` that names no file, such as the one of a write on a full disk."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or os.fspath(path)
        raise


def read_text(file: epath.Path | Path, field: str) -> str:
    """Returns the content of a file of UTF-8 text, without a byte order mark.

    field: names the file in errors.

    Raises:
      UserError: the file is missing, is not UTF-8, is what a failed download leaves (a Git LFS pointer, HTML or XML),
        or cannot be read from a disk. Other errors of a bucket pass through.
    """
    try:
        data = file.read_bytes()
        check_format(data[:HEAD], file, field, "the file itself", refused=(LFS_POINTER, *MARKUP))
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(field, f"{file}: byte {error.start} is not UTF-8", "UTF-8 text") from None
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(field, f"no file {file}", "a readable file") from None
    except OSError as error:
        if is_bucket(file):
            raise
        raise UserError(field, f"{file}: {error.strerror or error}", "a readable file") from None


def read_json(file: epath.Path | Path, field: str) -> dict[str, Any]:
    """Returns the JSON object in a file.

    Raises:
      UserError: as in `read_text`, or the file does not hold a JSON object.
    """
    return parse_json_object(read_text(file, field), f"{file}", field)


def parse_json_object(text: str, where: str, field: str) -> dict[str, Any]:
    """Returns the JSON object in a text; `where` and `field` name it in errors.

    Raises:
      UserError: the text is not a JSON object.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also thousands of digits; RecursionError: deep nesting
        raise UserError(field, f"{where}: {error}", "a JSON object") from None
    if not isinstance(value, dict):
        raise UserError(field, f"{where}: a JSON {type(value).__name__}", "a JSON object")
    return value


def sha256(file: epath.Path | Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def file_sizes(folder: epath.Path) -> dict[str, int]:
    """Returns the size in bytes of every file in a folder and its subfolders, by the path relative to the folder."""
    if is_bucket(folder):
        import fsspec

        system, root = fsspec.core.url_to_fs(os.fspath(folder))
        system.invalidate_cache()
        return {name.removeprefix(f"{root}/"): info["size"] for name, info in system.find(root, detail=True).items()}
    paths = (Path(top, name) for top, _, names in os.walk(folder, followlinks=True) for name in names)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths if path.exists()}


def check_new(path: epath.Path, field: str) -> None:
    """Raises `UserError` if `path` is a file, or a folder that is not empty."""
    if path.exists() and not path.is_dir():
        raise UserError(field, f"{path}, which is a file", "a new folder")
    if path.exists() and any(path.iterdir()):
        raise UserError(field, f"{path}, which is not empty", "a new folder", "nothing was changed in it")


@contextlib.contextmanager
def new_folder(
    path: epath.Path, field: str, *, wait: bool = False, remove_failed: bool = False, resume: bool = False
) -> Iterator[epath.Path]:
    """Yields a folder to write to, PATH.incomplete, which is renamed to `path` when the context ends without an error.

    On a disk, a lock keeps other runs out of PATH.incomplete. Files that an earlier run left in it are removed, unless
    the caller resumes. If it is empty when the context ends, PATH.incomplete is removed and `path` stays as it is. So a
    caller that finds within the context that another run has finished `path` may just return.

    field: names the folder in errors.
    wait: whether to wait for another run that writes the folder, instead of raising an error; only on a disk.
    remove_failed: whether to remove the files that were written before an error; otherwise they stay until the next
      run.
    resume: whether to keep the files that an earlier run left.

    Raises:
      UserError: another run writes the folder; or `path` is a file or not empty when the context ends, unless the
        caller wrote nothing.
    """
    work = path.with_name(f"{path.name}.incomplete")
    try:
        with contextlib.nullcontext() if is_bucket(work) else lock(work, field, wait=wait):
            work.mkdir(parents=True, exist_ok=True)
            if not resume:
                remove_contents(work)
            try:
                yield work
            except BaseException:
                if remove_failed:
                    with contextlib.suppress(OSError):  # the next run tries again
                        remove_contents(work)
                raise
            if any(file.name != LOCK for file in work.iterdir()):
                check_new(path, field)
                if path.exists():
                    path.rmdir()
                work.rename(path)
                (path / LOCK).unlink(missing_ok=True)
    finally:
        if not is_bucket(work):
            with contextlib.suppress(OSError):  # it was renamed, or is not empty
                os.rmdir(work)


def remove_contents(folder: epath.Path) -> None:
    """Removes everything in a folder except its lock."""
    for path in folder.iterdir():
        if path.is_dir() and not os.path.islink(path):
            path.rmtree()
        elif path.name != LOCK:
            path.unlink()
