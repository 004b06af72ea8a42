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
    """Writes a file so that a kill at any moment leaves the old or the new one. Text is written as UTF-8."""
    data = content.encode() if isinstance(content, str) else content
    if is_bucket(file):  # objects are whole or absent, and to rename one takes twenty requests
        file.write_bytes(data)
        return
    new = file.with_name(file.name + ".new")
    with _naming(new), new.open("wb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())
    new.replace(file)


def check_writable(file: epath.Path, field: str) -> None:
    """For results that take long to make: raises `UserError` unless `file` can be written. Creates its folder."""
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
    """Adds a line of JSON to a file, which is created where needed."""
    text = json.dumps(value) + "\n"
    if is_bucket(file):  # where nothing can be appended
        write_whole(file, (file.read_text(encoding="utf-8") if file.exists() else "") + text)
    else:
        with _naming(file), file.open("a", encoding="utf-8") as opened:
            opened.write(text)


@contextlib.contextmanager
def _naming(file: epath.Path) -> Iterator[None]:
    """Names a file in what fails inside: an error of a write, as on a full disk, does not."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or os.fspath(file)
        raise


def read_text(file: epath.Path | Path, field: str) -> str:
    """A file of UTF-8 text, without a byte order mark.

    field: names the file in errors.

    Raises:
      UserError: the file is missing, cannot be read, is not UTF-8, or is what a failed download leaves in its place.
    """
    try:
        data = file.read_bytes()
        check_format(data[:HEAD], (LFS_POINTER, *MARKUP), file, field, "the file itself")
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
    """The JSON object in a file.

    Raises:
      UserError: as `read_text`, or the file does not hold a JSON object.
    """
    return parse_json_object(read_text(file, field), f"{file}", field)


def parse_json_object(text: str, where: str, field: str) -> dict[str, Any]:
    """A JSON object; `where` and `field` name it in errors.

    Raises:
      UserError: the text is something else.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # also of a number with thousands of digits
        raise UserError(field, f"{where}: {error}", "a JSON object") from None
    if not isinstance(value, dict):
        raise UserError(field, f"{where}: a JSON {type(value).__name__}", "a JSON object")
    return value


def sha256(file: epath.Path | Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def file_sizes(folder: epath.Path) -> dict[str, int]:
    """The bytes of every file in a folder and those below it, by its path in the folder."""
    if is_bucket(folder):
        import fsspec

        system, root = fsspec.core.url_to_fs(os.fspath(folder))
        system.invalidate_cache()
        return {name.removeprefix(f"{root}/"): info["size"] for name, info in system.find(root, detail=True).items()}
    paths = (Path(top, name) for top, _, names in os.walk(folder, followlinks=True) for name in names)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths if path.exists()}


def check_new(path: epath.Path, field: str) -> None:
    """Raises `UserError` unless a folder can be made at `path` without touching anything."""
    if path.exists() and not path.is_dir():
        raise UserError(field, f"{path}, which is a file", "a new folder")
    if path.exists() and any(path.iterdir()):
        raise UserError(field, f"{path}, which is not empty", "a new folder", "nothing was changed in it")


@contextlib.contextmanager
def new_folder(path: epath.Path, field: str) -> Iterator[epath.Path]:
    """A folder to write to, PATH.incomplete, which becomes `path` when the context ends without an error.

    What an earlier run left there is removed. No other run can write the same folder meanwhile.
    """
    work = path.with_name(f"{path.name}.incomplete")
    with contextlib.nullcontext() if is_bucket(work) else lock(work, field):
        work.mkdir(parents=True, exist_ok=True)
        for left in work.iterdir():
            if left.name != LOCK:
                left.rmtree() if left.is_dir() else left.unlink()
        check_new(path, field)  # another run may have made it since
        yield work
        if path.exists():
            path.rmdir()
        work.rename(path)
        (path / LOCK).unlink(missing_ok=True)
