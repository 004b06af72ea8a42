"""GLUE's examples out of TSV folders or TFDS datasets prepared as ArrayRecord, without TensorFlow."""

import codecs
import dataclasses
import gzip
import math
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from symbert_jax.data import tfds_text
from symbert_jax.data.tasks import Split, Task
from symbert_jax.errors import UserError
from symbert_jax.storage import absolute, bucket_errors_as_user_errors

# The first bytes of files that are no TSV, in lower case, what they are, and the way out.
_OTHER_FORMATS = {
    b"version https://git-lfs": ("a Git-LFS pointer", "run git lfs pull"),
    b"<!doctype": ("a web page", "download the file itself"),
    b"<html": ("a web page", "download the file itself"),
    b"<?xml": ("an XML file", "download the file itself"),
    b"pk\x03\x04": ("a ZIP archive", "unpack it"),
    b"bzh": ("a bzip2 file", "unpack it"),
    b"\xfd7zxz": ("an xz file", "unpack it"),
    b"\x28\xb5\x2f\xfd": ("a zstd file", "unpack it"),
    b"par1": ("a Parquet file", "write its rows as TSV"),
}


class Example(NamedTuple):
    texts: tuple[str, ...]  # one sentence or two
    label: float | None  # the class id, or the value of a regression; None where the file tells none


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a task's splits are: `tsv:DIR` or `tfds:DIR`."""

    name: str

    def has(self, task: Task, split: Split) -> bool:
        """Whether the split is there."""
        kind, folder = self._open()
        with bucket_errors_as_user_errors("glue.source", folder, "a bucket that can be read"):
            if kind == "tfds":
                return any(split.name in _builder(found).info.splits for found in _find(folder, task))
            return _file(folder, task, split) is not None

    def read(self, task: Task, split: Split, *, labelled: bool) -> list[Example]:
        """The examples of a split: labelled ones as they are stored, others by the number that the GLUE server knows.

        Raises:
          UserError: the split is missing or damaged, or a label is missing or unknown; names file and line.
        """
        kind, folder = self._open()
        with bucket_errors_as_user_errors("glue.source", folder, "a bucket that can be read"):
            examples = list((_tfds if kind == "tfds" else _tsv)(folder, task, split, labelled))
        if not examples:
            raise UserError("glue.source", f"no example of {task.name} {split.name} in {folder}", "at least one")
        return examples

    def _open(self) -> tuple[str, epath.Path]:
        kind, _, folder = self.name.partition(":")
        if kind not in ("tsv", "tfds") or not folder:
            raise UserError("glue.source", repr(self.name), "tsv:DIR or tfds:DIR")
        path = absolute(folder, "glue.source")
        with bucket_errors_as_user_errors("glue.source", path, "a bucket that can be read"):
            if not path.is_dir():
                raise UserError("glue.source", f"no folder {path}", "the folder that holds a folder for each task")
        return kind, path


def _tsv(folder: epath.Path, task: Task, split: Split, labelled: bool) -> Iterator[Example]:
    path = _file(folder, task, split)
    if path is None:
        wanted = " or ".join(f"{task.folders[0]}/{name}[.gz]" for name in split.files)
        raise UserError(
            "glue.source", f"no {split.name} of {task.name} in {folder}", wanted, "or leave it out of tasks"
        )
    lines = _lines(path)
    # a file without header is a labelled one; where the label is looked for, the header is known by it
    header: tuple[str, ...] = task.header
    if not (labelled and header):
        header = next(lines, (1, ()))[1]
    columns = {name: header.index(name) for name in header}
    needed = [name for name, _ in task.texts] + [task.label] * labelled
    if lacking := [name for name in needed if name not in columns]:
        found = f"{path}, line 1: columns {_short(', '.join(header)) or 'none'}"
        wanted = f"among them {', '.join(lacking)}"
        raise UserError("glue.source", found, wanted, "the first line names the columns, divided by tabs")
    for number, fields in lines:
        here = f"{path}, line {number}"
        if len(fields) != len(header):
            if task.broken_rows and labelled and len(fields) < len(header):
                continue  # without labels every row counts: its number is its name
            wanted = f"{len(header)}: {_short(', '.join(header))}"
            raise UserError("glue.source", f"{here}: {len(fields)} columns", wanted)
        label = _label(task, fields[columns[task.label]], here) if labelled else None
        yield Example(tuple(fields[columns[name]] for name, _ in task.texts), label)


def _lines(path: epath.Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Line numbers from 1 and the fields of each line that is not empty. There is no quoting: a quote is text."""
    text = _text(path)
    end = "\n" if "\n" in text else "\r"  # the line end of Mac OS 9
    for number, line in enumerate(text.split(end), start=1):
        if line := line.rstrip("\r"):
            yield number, tuple(line.split("\t"))


def _text(path: epath.Path) -> str:
    """A file of UTF-8, or of UTF-16 with a byte order mark; gzip is known by its first bytes, whatever the suffix.

    Raises:
      UserError: the file is damaged, of another encoding or of another format (says which).
    """
    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError("glue.source", f"{path}: {error}", "a readable file") from error
    start = content[:64].removeprefix(codecs.BOM_UTF8).lstrip().lower()
    for sign, (name, hint) in _OTHER_FORMATS.items():
        if start.startswith(sign):
            raise UserError("glue.source", f"{path}: {name}", "a TSV file", hint)
    try:
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            content = content.decode("utf-16").encode()
        if (zero := content.find(b"\0")) >= 0:
            here = f"{path}, line {_line(content, zero)}"
            raise UserError("glue.source", f"{here}: a zero byte", "text", "copy or convert the file again")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        here = f"{path}, line {_line(content, error.start)}"
        hint = "convert it, for example by iconv -f latin1 -t utf-8"
        raise UserError("glue.source", f"{here}: {error.reason}", "UTF-8", hint) from error


def _line(content: bytes, position: int) -> int:
    return content.count(b"\n", 0, position) + 1


def _short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:100]}…"


def _label(task: Task, text: str, here: str) -> float:
    if task.classes:
        if text not in task.classes:
            found = f"{here}: {task.label} {_short(text)!r}"
            raise UserError("glue.source", found, f"one of {', '.join(task.classes)}")
        return float(task.classes.index(text))
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError("glue.source", f"{here}: {task.label} {_short(text)!r}", "a number")
    return number


def _file(folder: epath.Path, task: Task, split: Split) -> epath.Path | None:
    for file in split.files:
        for name in task.folders:
            inside = _child(folder, name)
            for path in (inside and _child(inside, file), inside and _child(inside, file + ".gz")):
                if path:
                    return path
    return None


def _child(folder: epath.Path, name: str) -> epath.Path | None:
    """What has this name in a folder, in other case only where nothing has exactly this name."""
    if (folder / name).exists():
        return folder / name
    if not folder.is_dir():
        return None
    return min((path for path in folder.iterdir() if path.name.lower() == name.lower()), default=None)


def _tfds(folder: epath.Path, task: Task, split: Split, labelled: bool) -> Iterator[Example]:
    found = next(_find(folder, task), None)
    if found is None:
        wanted = f"glue/{task.name} prepared by TFDS"
        raise UserError("glue.source", f"no dataset {task.name} in {folder}", wanted, "or leave it out of tasks")
    builder = _builder(found)
    if split.name not in builder.info.splits:
        raise UserError("glue.source", f"splits {sorted(builder.info.splits)} in {found}", f"a split {split.name}")
    if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        hint = "prepare it with file_format='array_record'"
        raise UserError("glue.source", f"{builder.info.file_format.value} files in {found}", "array_record", hint)
    here = f"{found}, {split.name}"
    fields = [name for _, name in task.texts] + ["label"] * labelled + ["idx"] * (not labelled)
    rows = _rows(builder, split, fields, here)
    if not labelled:  # TFDS stores rows by a hash; the GLUE server knows each by its number
        if any(row["idx"] is None for row in rows):
            raise UserError("glue.source", f"{here}: a row without idx", "the number of every row")
        rows.sort(key=lambda row: row["idx"])
        if lacking := set(range(len(rows))).difference(row["idx"] for row in rows):
            raise UserError(
                "glue.source",
                f"{here}: {len(rows)} rows and none with idx {min(lacking)}",
                "every row, or answers would go to other questions",
            )
    for number, row in enumerate(rows):
        if labelled and task.classes and row["label"] not in range(len(task.classes)):
            raise UserError("glue.source", f"{here} {number}: label {row['label']}", f"0 to {len(task.classes) - 1}")
        if labelled and not math.isfinite(row["label"]):
            raise UserError("glue.source", f"{here} {number}: label {row['label']}", "a number")
        yield Example(tuple(row[name] for _, name in task.texts), float(row["label"]) if labelled else None)


def _builder(folder: epath.Path) -> tfds.core.DatasetBuilder:
    try:
        return tfds.builder_from_directory(folder)
    except Exception as error:  # what its JSON and protocol buffers raise has no type in common
        raise _damaged(f"{folder}", error) from error


def _rows(builder: tfds.core.DatasetBuilder, split: Split, fields: list[str], here: str) -> list[dict[str, Any]]:
    """The `fields` of every row, text as str."""
    try:
        source = builder.as_data_source(split.name)
        rows = (source[number] for number in range(len(source)))
        return [{name: _value(row[name]) for name in fields} for row in rows]
    except Exception as error:  # likewise of ArrayRecord
        raise _damaged(here, error) from error


def _value(value: Any) -> str | int | float:
    return value.decode() if isinstance(value, bytes) else np.asarray(value).item()


def _damaged(here: str, error: Exception) -> UserError:
    found = _short(" ".join(f"{type(error).__name__}: {error}".split()))
    return UserError("glue.source", f"{here}: {found}", "an intact dataset of GLUE", "prepare it again")


def _find(folder: epath.Path, task: Task) -> Iterator[epath.Path]:
    """The task's dataset, whether `folder` is TFDS's data directory or the folder of the tasks."""
    for place in (folder / "glue" / task.name, folder / task.name):
        if place.is_dir():
            yield tfds_text.find(str(absolute(place)), "glue.source")
