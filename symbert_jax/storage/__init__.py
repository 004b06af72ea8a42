"""Access to file systems: disks and buckets (gs://…).

Reading order: `paths`, as users write them; `buckets`, whose exceptions become `UserError`; `locks`, so that one run at
a time writes a folder; `files`, which are written whole or not at all; `formats`, which names the format of a file that
is not what was expected.
"""

from symbert_jax.storage.buckets import Unreached, bucket_errors_as_user_errors, require_writable_bucket
from symbert_jax.storage.files import (
    append_json,
    check_new,
    check_writable,
    file_sizes,
    new_folder,
    parse_json_object,
    read_json,
    read_text,
    sha256,
    write_whole,
)
from symbert_jax.storage.formats import BINARY, HEAD, LFS_POINTER, MARKUP, check_format
from symbert_jax.storage.locks import LOCK, lock
from symbert_jax.storage.paths import absolute, is_bucket

__all__ = [
    "BINARY",
    "HEAD",
    "LFS_POINTER",
    "LOCK",
    "MARKUP",
    "Unreached",
    "absolute",
    "append_json",
    "bucket_errors_as_user_errors",
    "check_format",
    "check_new",
    "check_writable",
    "file_sizes",
    "is_bucket",
    "lock",
    "new_folder",
    "parse_json_object",
    "read_json",
    "read_text",
    "require_writable_bucket",
    "sha256",
    "write_whole",
]
