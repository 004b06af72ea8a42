"""Changes of a file, in the format that its name suggests, and of some files of a folder."""

import bz2
import gzip
import lzma
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

from bench.fuzz.mutations.containers import change_array_record, change_safetensors, change_tf_record
from bench.fuzz.mutations.content import change_bytes, change_json_line, change_json_text, change_lines, choose

# Content that replaces a file, such as a failed download or checkout leaves behind.
REPLACEMENTS = {
    "an empty file": b"",
    "a Git-LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 440449768\n",
    "a page of HTML": b"<!DOCTYPE html>\n<html><head><title>404</title></head><body>Not Found</body></html>\n",
    "a PNG": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x02\x00\x00\x00\x90wS\xde",
    "gzip": gzip.compress(b'{"text": "something else"}\n' * 9, mtime=0),
    "a truncated gzip": gzip.compress(bytes(range(256)) * 40, mtime=0)[:150],
    "a zip": b"PK\x03\x04\x14\x00\x00\x00\x08\x00" + bytes(40),
    "zstd": b"\x28\xb5\x2f\xfd\x24\x05\x29\x00\x00hello",
    "zeros": bytes(4096),
    "bytes of 255": b"\xff" * 100,
    "a line end": b"\n",
    "null": b"null",
    "a JSON list": b"[]",
    "a JSON object": b"{}",
    "a JSON string": b'"text"',
    "an error of a server": b'{"error": "Repository not found"}',
    "a NUL": b"\0",
}
_COMPRESSIONS = {".gz": gzip, ".bz2": bz2, ".xz": lzma}
# By patterns of the suffixes of a file, joined and without those of compression; of its name if it has no others.
_CHANGES = {
    r"\.jsonl$": change_json_line,
    r"\.json$|^_METADATA$|_CHECKPOINT_METADATA$|^_sharding$|^metrics$": change_json_text,
    r"\.safetensors$": change_safetensors,
    r"\.tfrecord": change_tf_record,
    r"\.array_record": change_array_record,
    r"\.(txt|tsv)$": change_lines,
}


def change_folder(random: Random, folder: Path, files: list[Path] | None = None) -> list[str]:
    """Makes one to three changes, each of one of `files`, by default of all files below the folder.

    A file may be changed more than once.
    """
    descriptions = []
    for _ in range(random.choice((1, 1, 1, 1, 2, 3))):
        found = sorted(path for path in files or folder.rglob("*") if path.is_file() and not path.is_symlink())
        if found:
            descriptions.append(change_file(random, random.choice(found)))
    return descriptions


def change_file(random: Random, path: Path) -> str:
    """Changes a file, in the format that its name suggests or as bytes, or replaces or removes it."""
    actions = {_replace_or_remove: 3, _rewrite: 3}  # with weights
    suffixes_or_name = "".join(part for part in path.suffixes if part not in _COMPRESSIONS) or path.name
    change = next((change for pattern, change in _CHANGES.items() if re.search(pattern, suffixes_or_name)), None)
    if change:
        actions[lambda random, path: _rewrite(random, path, change)] = 8
    return f"{path.name}: {choose(random, actions)(random, path)}"


def _rewrite(random: Random, path: Path, change: Callable = change_bytes) -> str:
    """Changes the content of a file; of a compressed file, either the compressed or the decompressed bytes."""
    compression = _COMPRESSIONS.get(path.suffix)
    content = path.read_bytes()
    try:
        if compression and (change is not change_bytes or random.random() < 0.5):
            changed, description = change(random, compression.decompress(content))
            path.write_bytes(compression.compress(changed))
            return f"inside: {description}"
        changed, description = change(random, content)
    except Exception:  # an earlier change of the same file has damaged its format
        changed, description = change_bytes(random, content)
    path.write_bytes(changed)
    return description


def _replace_or_remove(random: Random, path: Path) -> str:
    siblings = sorted(other for other in path.parent.iterdir() if other.is_file() and other != path)
    match random.randrange(8):
        case 0:
            path.unlink()
            return "removed"
        case 1:
            path.unlink()
            path.mkdir()
            return "replaced by a folder"
        case 2:
            path.unlink()
            path.symlink_to(random.choice(("nowhere", path.name, "/dev/null")))
            return f"replaced by a link to {path.readlink()}"
        case 3 if siblings:
            other = random.choice(siblings)
            shutil.copyfile(other, path)
            return f"replaced by {other.name}"
        case _:
            name = random.choice([*REPLACEMENTS])
            path.write_bytes(REPLACEMENTS[name])
            return f"replaced by {name}"
