"""Everything that touches a file system: paths, whole-file writes, appends, JSON files, the lock of a folder, buckets.

Paths may be of a disk or of a bucket (gs://…). What a user's path or file does wrong is a `UserError`.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from etils import epath

from symbert_jax.errors import UserError

LOCK = ".lock"  # the file of a folder's lock
LEASE = 60.0  # seconds without a renewal after which the lock of a folder in a bucket may be taken over
PACKAGES = "pip install gcsfs google-cloud-storage"
ACCESS = (
    "check its name, the credentials, and their roles: storage.objectAdmin, and for a workdir legacyBucketReader too"
)

logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs what it raises or retries


def is_bucket(path: epath.PathLike) -> bool:
    """Whether a path is of a bucket (gs://…) rather than of a disk."""
    return "://" in os.fspath(path)


def absolute(path: epath.PathLike, field: str = "path") -> epath.Path:
    """A path as a user writes it, absolute and with `~` expanded. Paths of buckets are absolute already.

    field: names the path in errors.

    Raises:
      UserError: the path is empty, cannot be a path, or has a `~user` who does not exist, or etils takes it for one of
        a bucket: /gs/… is gs://… to it.
    """
    text = os.fspath(path)
    if not text or "\0" in text:
        raise UserError(field, repr(text), "a path")
    if is_bucket(text):
        try:
            return epath.Path(text)
        except (KeyError, ValueError, ImportError):  # etils knows none of that scheme
            raise UserError(field, repr(text), "a path on a disk or gs://BUCKET/FOLDER") from None
    try:
        full = os.path.abspath(os.path.realpath(Path(text).expanduser()))
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: no such user
        raise UserError(field, f"{text!r}: {error}", "a path") from None
    if is_bucket(found := epath.Path(full)):
        raise UserError(field, f"{full}, which reads as {found}", "a path on a disk", "mount the disk elsewhere")
    return found


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
      UserError: the file is missing, cannot be read, or is not UTF-8.
    """
    try:
        return file.read_bytes().decode("utf-8-sig")
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
    text = read_text(file, field)
    check_download(text[:256].encode(), file, field)
    return parse_json_object(text, f"{file}", field)


def check_download(data: bytes, file: epath.Path | Path, field: str) -> None:
    """Raises `UserError` for what an incomplete download leaves in place of a file; `data` is its content,
    or the beginning of it."""
    start = data[:256].lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        hint = f"run `git lfs pull` in {file.parent}"
        raise UserError(field, f"{file}, a Git LFS pointer", "the file that it points to", hint)
    if start.startswith((b"<!doctype", b"<html")):
        raise UserError(field, f"{file}, an HTML page", "the file itself", "download it again")


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


@contextlib.contextmanager
def lock(folder: epath.PathLike, field: str, *, wait: bool = False) -> Iterator[None]:
    """Keeps every other run out of a folder, which is created where needed, for as long as the context lasts.

    A disk: `flock` on FOLDER/.lock. The kernel releases it when its process ends, also by `kill -9`, so no lock is ever
    stale. On NFS it holds between hosts since Linux 2.6.12; on Lustre with the mount option `flock`. A file system
    without `flock` gets a warning instead of a lock.
    A bucket: FOLDER/.lock is an object that is created only where there is none, and renewed every 20 s. One that has
    not changed for 60 s, or whose process on this host is gone, is taken over.

    field: names the folder in errors. wait: for the other run to end, instead of an error; on a disk only.

    Raises:
      UserError: another run holds the lock; names its host and process, and since when.
    """
    with (_bucket_lock if is_bucket(folder) else _disk_lock)(epath.Path(folder), field, wait):
        yield


@contextlib.contextmanager
def _disk_lock(folder: epath.Path, field: str, wait: bool) -> Iterator[None]:
    path, created = Path(folder) / LOCK, not folder.exists()
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # another run has just removed the folder, or renamed it
            if not os.path.isdir(path.parent.parent):
                raise UserError(field, f"{folder}: no such folder", "a folder that can be written") from None
            continue
        except OSError as error:
            raise UserError(field, f"{folder}: {error.strerror}", "a folder that can be written") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            found = os.read(file, 1 << 12).decode(errors="replace")
            os.close(file)
            _raise_held(folder, field, found)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            print(f"warning: {folder} is on a file system without locks: let only one run use it", file=sys.stderr)
        if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
            break
        os.close(file)  # the run that held it removed or moved the file before it let go
    try:
        with contextlib.suppress(OSError):  # a full disk must not keep anyone from finishing
            os.ftruncate(file, 0)
            os.write(file, _holder().encode())
        yield
    finally:
        with contextlib.suppress(OSError):  # gone with its folder, or moved to where it is no longer needed
            if os.path.samestat(os.fstat(file), path.stat()):
                path.unlink()
                if created:
                    path.parent.rmdir()  # where nothing else was written
        os.close(file)


@contextlib.contextmanager
def _bucket_lock(folder: epath.Path, field: str, wait: bool) -> Iterator[None]:
    del wait
    _require_google(folder, field)
    with bucket_errors_as_user_errors(field, folder, "a bucket that can be read and written"):
        import fsspec

        system, path = fsspec.core.url_to_fs(os.fspath(folder / LOCK))
        mine = {"token": uuid.uuid4().hex, "count": 0} | json.loads(_holder())
        while True:
            try:
                system.pipe_file(path, json.dumps(mine).encode(), mode="create")
                break
            except FileExistsError:
                _wait_until_stale(system, path, folder, field)
                with contextlib.suppress(FileNotFoundError):
                    system.rm_file(path)
    released = threading.Event()

    def renew() -> None:
        while not released.wait(LEASE / 3):
            mine["count"] += 1
            try:
                if json.loads(system.cat_file(path))["token"] == mine["token"]:
                    system.pipe_file(path, json.dumps(mine).encode())
                    continue
            except FileNotFoundError:
                pass
            except Exception:  # an outage of the bucket: the run meets it too
                continue
            print(f"error: {folder} was taken over by another run while this one stood still", file=sys.stderr)
            os._exit(1)

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        released.set()
        thread.join()
        with contextlib.suppress(Exception):  # it will be stale soon
            system.rm_file(path)


def _wait_until_stale(system: Any, path: str, folder: epath.Path, field: str) -> None:
    """Returns once the lock in a bucket is stale; raises `UserError` when it is renewed meanwhile."""
    try:
        before = system.cat_file(path)
        holder = json.loads(before)
    except FileNotFoundError:
        return
    except ValueError:
        holder = {}
    same_host = holder.get("host") == _host()
    if same_host and (holder.get("process") == os.getpid() or not Path(f"/proc/{holder.get('process')}").exists()):
        return
    print(f"{folder} is locked by {_describe(before.decode(errors='replace'))}: waiting {LEASE:.0f} s for a sign of it")
    end = time.monotonic() + LEASE
    while time.monotonic() < end:
        time.sleep(LEASE / 60)
        try:
            now = system.cat_file(path)
        except FileNotFoundError:
            return
        if now != before:
            _raise_held(folder, field, now.decode(errors="replace"))


def _raise_held(folder: epath.Path, field: str, holder: str) -> NoReturn:
    hint = "wait until it ends, stop it, or name another folder"
    raise UserError(field, f"{folder}, in use by {_describe(holder)}", "a folder that no other run writes", hint)


def _holder() -> str:
    """This process, as the lock names it."""
    since = time.strftime("%Y-%m-%d %H:%M:%S %z")
    return json.dumps({"host": _host(), "process": os.getpid(), "since": since}) + "\n"


def _host() -> str:
    """The host and, in a container, its process namespace: where a process number means something."""
    try:
        return f"{socket.gethostname()} ({os.readlink('/proc/self/ns/pid')})"
    except OSError:
        return socket.gethostname()


def _describe(holder: str) -> str:
    try:
        found = json.loads(holder)
        return f"process {found['process']} on {found['host'].split()[0]} since {found['since']}"
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return "another run"


class Unreached(UserError):
    """A bucket that did not answer. A launcher that starts the command again does right."""

    exit_code = 1


@contextlib.contextmanager
def bucket_errors_as_user_errors(what: str, path: epath.PathLike, wanted: str) -> Iterator[None]:
    """Converts exceptions of cloud storage to `UserError`; with a path on a disk it changes nothing."""
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


def _require_google(folder: epath.Path, field: str) -> None:
    """Raises `UserError` for a bucket that Orbax does not write to."""
    if not os.fspath(folder).startswith("gs://"):
        raise UserError(field, os.fspath(folder), "a folder of a disk or gs://BUCKET/FOLDER")


def require_writable_bucket(workdir: epath.Path) -> None:
    """Makes the requests to a bucket that a run will make; the workdir may not exist yet.

    Raises:
      UserError: one of them fails.
    """
    _require_google(workdir, "workdir")
    with bucket_errors_as_user_errors("workdir", workdir, "a bucket that can be read and written"):
        from google.cloud import storage  # which TensorBoard's writer and Orbax need

        storage.Client().get_bucket(os.fspath(workdir).split("/")[2])  # Orbax does, and no role for objects allows it
        probe = workdir / f".symbert_jax_{uuid.uuid4().hex}"
        probe.write_text("")
        probe.unlink()
