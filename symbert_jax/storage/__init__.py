"""Access to file systems: disks and buckets (gs://…).

Reading order: `paths` makes paths of users absolute and finds their cache; `buckets` converts exceptions of cloud
storage to `UserError`; `locks` lets only one run at a time write to a folder; `formats` recognises files in an
unexpected format; `files` writes files and folders whole or not at all.
"""

from symbert_jax.storage.buckets import (
    UnreachableBucket,
    bucket_errors_as_user_errors,
    check_writable_bucket,
    find_in_bucket,
)
from symbert_jax.storage.files import (
    add_path_to_os_errors,
    append_json,
    check_new,
    check_writable,
    file_sizes,
    new_folder,
    parse_json_object,
    read_json,
    read_text,
    remove_contents,
    sha256,
    write_whole,
)
from symbert_jax.storage.formats import BINARY, HEAD, LFS_POINTER, MARKUP, check_format
from symbert_jax.storage.locks import LOCK, lock
from symbert_jax.storage.paths import absolute, is_bucket, user_cache

__all__ = [
    "BINARY",
    "HEAD",
    "LFS_POINTER",
    "LOCK",
    "MARKUP",
    "UnreachableBucket",
    "absolute",
    "add_path_to_os_errors",
    "append_json",
    "bucket_errors_as_user_errors",
    "check_format",
    "check_new",
    "check_writable",
    "check_writable_bucket",
    "file_sizes",
    "find_in_bucket",
    "is_bucket",
    "lock",
    "new_folder",
    "parse_json_object",
    "read_json",
    "read_text",
    "remove_contents",
    "sha256",
    "user_cache",
    "write_whole",
]
