"""Locks of folders, so that only one run at a time writes to a folder."""

import contextlib
import errno
import fcntl
import json
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
from symbert_jax.storage.buckets import bucket_errors_as_user_errors, check_google_bucket
from symbert_jax.storage.paths import is_bucket

LOCK = ".lock"  # the name of the lock file in a folder
LEASE = 60.0  # seconds without a renewal after which a lock in a bucket may be taken over


@contextlib.contextmanager
def lock(folder: epath.PathLike, field: str, *, wait: bool = False) -> Iterator[None]:
    """Keeps all other runs out of a folder while the context lasts. Creates the folder if it does not exist.

    On a disk, the lock is `flock` on FOLDER/.lock. The kernel releases it when the process that holds it ends, even by
    `kill -9`, so a lock is never stale. `flock` works between hosts on NFS since Linux 2.6.12, and on Lustre with the
    mount option `flock`. On a file system without `flock`, a warning replaces the lock.
    In a bucket, FOLDER/.lock is an object that is created only if it does not exist, and renewed every 20 s. A lock
    that has not changed for 60 s, or whose process on this host has ended, is taken over.

    field: names the folder in errors.
    wait: whether to wait until the other run releases the lock, instead of raising an error; only on a disk.

    Raises:
      UserError: another run holds the lock, or the folder cannot be written. The error about a held lock names the
        process that holds it, its host, and since when.
    """
    with (_bucket_lock if is_bucket(folder) else _disk_lock)(epath.Path(folder), field, wait):
        yield


@contextlib.contextmanager
def _disk_lock(folder: epath.Path, field: str, wait: bool) -> Iterator[None]:
    path, is_new_folder = Path(folder) / LOCK, not folder.exists()
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(field, f"{folder}: {error.strerror}", "a folder that can be written") from None
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # another run has removed or renamed the folder in the meantime
            continue
        except OSError as error:
            raise UserError(field, f"{folder}: {error.strerror}", "a folder that can be written") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            content = os.read(file, 1 << 12).decode(errors="replace")
            os.close(file)
            _raise_held(folder, field, content)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            print(f"warning: {folder} is on a file system without locks: let only one run use it", file=sys.stderr)
        if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
            break
        os.close(file)  # the run that held the lock has removed or moved this file
    try:
        with contextlib.suppress(OSError):  # such as a full disk: the content of the file is only for messages
            os.ftruncate(file, 0)
            os.write(file, _lock_content().encode())
        yield
    finally:
        with contextlib.suppress(OSError):  # the file was removed or moved with its folder
            if os.path.samestat(os.fstat(file), path.stat()):
                path.unlink()
                if is_new_folder:
                    path.parent.rmdir()  # fails if something was written
        os.close(file)


@contextlib.contextmanager
def _bucket_lock(folder: epath.Path, field: str, wait: bool) -> Iterator[None]:
    del wait  # not supported in a bucket
    check_google_bucket(folder, field)
    with bucket_errors_as_user_errors(field, folder, "a bucket that can be read and written"):
        import fsspec

        system, path = fsspec.core.url_to_fs(os.fspath(folder / LOCK))
        own_lock = {"token": uuid.uuid4().hex, "count": 0} | json.loads(_lock_content())
        while True:
            try:
                system.pipe_file(path, json.dumps(own_lock).encode(), mode="create")
                break
            except FileExistsError:
                _wait_until_stale(system, path, folder, field)
                with contextlib.suppress(FileNotFoundError):
                    system.rm_file(path)
    released = threading.Event()

    def renew() -> None:
        while not released.wait(LEASE / 3):
            own_lock["count"] += 1
            try:
                if json.loads(system.cat_file(path))["token"] == own_lock["token"]:
                    system.pipe_file(path, json.dumps(own_lock).encode())
                    continue
            except FileNotFoundError:
                pass
            except Exception:  # an outage of the bucket, which the run itself reports
                continue
            print(f"error: {folder} was taken over by another run while this one was suspended", file=sys.stderr)
            os._exit(1)

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        released.set()
        thread.join()
        with contextlib.suppress(Exception):  # an outage of the bucket: the lock will be stale soon
            system.rm_file(path)


def _wait_until_stale(system: Any, path: str, folder: epath.Path, field: str) -> None:
    """Returns as soon as the lock in a bucket is stale or gone; raises `UserError` if its holder renews it."""
    try:
        old = system.cat_file(path)
        holder = json.loads(old)
    except FileNotFoundError:
        return
    except ValueError:
        holder = {}
    process, on_this_host = holder.get("process"), holder.get("host") == _host()
    # an earlier process may have had the id of this one
    if on_this_host and (process == os.getpid() or not Path(f"/proc/{process}").exists()):
        return
    described = _describe_holder(old.decode(errors="replace"))
    print(f"{folder} is locked by {described}: waiting {LEASE:.0f} s for a renewal of the lock")
    end = time.monotonic() + LEASE
    while time.monotonic() < end:
        time.sleep(LEASE / 60)
        try:
            new = system.cat_file(path)
        except FileNotFoundError:
            return
        if new != old:
            _raise_held(folder, field, new.decode(errors="replace"))


def _raise_held(folder: epath.Path, field: str, content: str) -> NoReturn:
    """Raises the error about a lock that another run holds, from the content of the lock file."""
    hint = "wait until it ends, stop it, or name another folder"
    found = f"{folder}, in use by {_describe_holder(content)}"
    raise UserError(field, found, "a folder that no other run writes", hint)


def _lock_content() -> str:
    """Returns the content of a lock file that this process holds: a line of JSON that identifies the process."""
    since = time.strftime("%Y-%m-%d %H:%M:%S %z")
    return json.dumps({"host": _host(), "process": os.getpid(), "since": since}) + "\n"


def _host() -> str:
    """Returns the host and the process namespace: in another container, the same number belongs to another process."""
    try:
        return f"{socket.gethostname()} ({os.readlink('/proc/self/ns/pid')})"
    except OSError:
        return socket.gethostname()


def _describe_holder(content: str) -> str:
    """Describes, for messages, the process that holds a lock, from the content of the lock file."""
    try:
        holder = json.loads(content)
        return f"process {holder['process']} on {holder['host'].split()[0]} since {holder['since']}"
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return "another run"
