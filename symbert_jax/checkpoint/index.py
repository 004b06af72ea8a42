"""The index of a checkpoint's files, with which the files are compared to find damage."""

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator
from typing import Any

import orbax.checkpoint as ocp
from etils import epath

from symbert_jax.errors import UserError
from symbert_jax.storage import bucket_errors_as_user_errors, file_sizes, is_bucket, sha256, write_whole

ITEMS = ("params", "optimizer")  # a step has a folder for each
EMA = "ema"  # the folder of the moving average of the parameters, of runs that have one
INDEX = "index.json"
METADATA = "_CHECKPOINT_METADATA"  # Orbax's description of a checkpoint
_NOT_INDEXED = (INDEX, METADATA, "commit_success.txt")  # the index, and files that Orbax writes or changes after it
_SMALL = 1 << 20  # bytes; files on a disk up to this size are always read


def check_path(path: epath.Path, field: str) -> None:
    """Checks that Orbax can read back what it writes to a path.

    Orbax takes `*`, `?` and `[` for patterns, TensorStore takes `\\` for `/`, both need UTF-8, and both take a local
    `gs:/` for a bucket.

    Raises:
      UserError: Orbax could not read it back.
    """
    text = os.fspath(path)
    wrong = next((character for character in "*?[\\" if character in text), "")
    if not is_bucket(text) and "gs:/" in f"{text}/":
        wrong = "gs:"
    if text.encode(errors="replace").decode() != text:
        wrong = "bytes that are not UTF-8"
    if wrong:
        hint = "rename the folder or name another"
        raise UserError(field, f"{text}, with {wrong} in it", "a path that checkpoints can be read back from", hint)


def write_index(folder: epath.Path, items: Collection[str], corpus: str = "") -> None:
    """Writes the index of a checkpoint. Call it when the items are written and Orbax has not committed them yet.

    items: the folders of the checkpoint that hold arrays; "" is the folder of the checkpoint itself.
    corpus: the fingerprints of the corpora that the run trains on, separated by spaces.

    Raises:
      ValueError: the checkpoint is already damaged.
    """
    metadata = _read_json(folder / METADATA)
    index = {
        "corpus": corpus,
        "metadata": _json_sha256(metadata.get("custom_metadata")),
        "files": {
            name: [size, None if is_bucket(folder) else sha256(folder / name)]
            for name, size in sorted(file_sizes(folder).items())
            if name not in _NOT_INDEXED
        },
    }
    write_whole(folder / INDEX, json.dumps({"index": index, "sha256": _json_sha256(index)}))
    if damage := find_damage(folder, items):
        raise ValueError(damage)


def read_index(folder: epath.Path) -> dict[str, Any] | None:
    """Returns the index of a checkpoint, None if it has none. A damaged index may raise any exception."""
    if not (folder / INDEX).exists():
        return None
    read = _read_json(folder / INDEX)
    index: dict[str, Any] = read["index"]
    if read["sha256"] != _json_sha256(index):
        raise ValueError(f"{INDEX} has a wrong checksum")
    return index


def _read_json(file: epath.Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except ValueError:
        raise ValueError(f"{file.name} is not JSON") from None


def _json_sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def damaged_steps(folder: epath.Path) -> dict[int, str]:
    """Returns a description of the damage of each damaged step.

    Returns {} in a bucket, where a step is checked only before it is read.
    """
    if is_bucket(folder) or not folder.is_dir():
        return {}
    names = [path.name for path in folder.iterdir() if path.is_dir() and re.fullmatch("0|[1-9][0-9]*", path.name)]
    return {int(name): damage for name in names if (damage := find_damage(folder / name))}


def find_damage(folder: epath.Path, items: Collection[str] = ITEMS, contents: Collection[str] = ()) -> str:
    """Returns a description of the first damage found in a checkpoint, "" if the checkpoint is whole.

    items: the folders of the checkpoint that hold arrays; "" is the folder of the checkpoint itself.
    contents: items whose files are all read and compared with their checksums. Other files are read only up to a size
      of `_SMALL`. In a bucket, only their sizes are compared, because the index has no checksums of
      files.
    """
    with bucket_errors_as_user_errors("checkpoint", folder, "a bucket that can be read"):
        try:
            return next(_damages(folder, items, contents), "")
        except Exception as error:  # damaged files cause any exception
            if is_bucket(folder):
                raise
            return short_message(error)


def _damages(folder: epath.Path, items: Collection[str], contents: Collection[str]) -> Iterator[str]:
    """Yields descriptions of damage, of which only the first is reliable."""
    sizes = file_sizes(folder)
    if not sizes:
        yield "it is empty"
    for item in items:
        if item and not any(name.startswith(f"{item}/") for name in sizes):
            yield f"it has no {item}"
    for name in (METADATA, *(os.path.join(item, name) for item in items for name in ("_METADATA", "manifest.ocdbt"))):
        if not sizes.get(name):
            yield f"{name} is {'empty' if name in sizes else 'missing'}"
    if (index := read_index(folder)) is not None:
        for name, (size, checksum) in index["files"].items():
            if name not in sizes:
                yield f"{name} is missing"
            if sizes[name] != size:
                yield f"{name} has {sizes[name]:,} bytes instead of {size:,}"
            should_read = size <= _SMALL or any(name.startswith(os.path.join(item, "")) for item in contents)
            if should_read and checksum and sha256(folder / name) != checksum:
                yield f"{name} has a wrong checksum"
    if not is_bucket(folder):
        for name in sizes.keys() & {"metrics/metrics", *(os.path.join(item, "_METADATA") for item in items)}:
            _read_json(folder / name)
    metadata = _read_json(folder / METADATA)
    if index is not None and _json_sha256(metadata.get("custom_metadata")) != index["metadata"]:
        yield f"{METADATA} has a wrong checksum"
    # Orbax reads this time of every step that it finds; this line raises if Orbax could not read it.
    ocp.path.step.Metadata(0, folder).commit_timestamp  # noqa: B018


def short_message(error: Exception) -> str:
    """Returns the message of an exception on one line; of TensorStore's long ones, only the operating system's part."""
    if system := re.search("os_error_code='([0-9]+)'", str(error)):
        return os.strerror(int(system[1]))
    text = " ".join(str(error).split())
    is_clear = type(error) is ValueError or isinstance(error, OSError)  # without the name of its type
    return (text if is_clear else f"{type(error).__name__}: {text}")[:300]
