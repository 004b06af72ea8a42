"""Reads the examples of GLUE from TSV folders or TFDS datasets prepared as ArrayRecord, without TensorFlow."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from symbert_jax.data.sources import files, tfds_text
from symbert_jax.errors import UserError
from symbert_jax.eval.tasks import Split, Task
from symbert_jax.storage import HEAD, MARKUP, absolute, bucket_errors_as_user_errors, check_format

_READABLE = "a TSV file in UTF-8, plain or as .gz, .bz2 or .xz"


class Example(NamedTuple):
    texts: tuple[str, ...]  # one sentence or two
    label: float | None  # the class id, or the value of a regression; None where the file has none


@dataclasses.dataclass(frozen=True)
class Source:
    """The splits of tasks in `tsv:DIR` or `tfds:DIR`."""

    name: str

    def has(self, task: Task, split: Split) -> bool:
        """Whether the split exists."""
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
        where = f"{path}, line {number}"
        if len(fields) != len(header):
            if task.broken_rows and labelled and len(fields) < len(header):
                continue  # without labels every row counts: its number is its name
            wanted = f"{len(header)}: {_short(', '.join(header))}"
            raise UserError("glue.source", f"{where}: {len(fields)} columns", wanted)
        label = _label(task, fields[columns[task.label]], where) if labelled else None
        yield Example(tuple(fields[columns[name]] for name, _ in task.texts), label)


def _lines(path: epath.Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Line numbers from 1 and the fields of each line that is not empty. There is no quoting: a quote is text."""
    text = _text(path)
    end = "\n" if "\n" in text else "\r"  # the line end of Mac OS 9
    for number, line in enumerate(text.split(end), start=1):
        if line := line.rstrip("\r"):
            yield number, tuple(line.split("\t"))


def _text(path: epath.Path) -> str:
    """The text of a file, whole in memory: the largest of GLUE, MNLI's train.tsv, has a few hundred megabytes.

    Raises:
      UserError: the file is damaged, of another encoding than Unicode or of another format (says which).
    """
    text = "".join(files.decode(path, "glue.source", _READABLE))
    check_format(text[:HEAD].encode(), MARKUP, path, "glue.source", _READABLE)
    if (zero := text.find("\0")) >= 0:
        where = f"{path}, line {text.count(chr(10), 0, zero) + 1}"
        raise UserError("glue.source", f"{where}: a zero byte", "text", "copy or convert the file again")
    return text


def _short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:100]}…"


def _label(task: Task, text: str, where: str) -> float:
    if task.classes:
        if text not in task.classes:
            found = f"{where}: {task.label} {_short(text)!r}"
            raise UserError("glue.source", found, f"one of {', '.join(task.classes)}")
        return float(task.classes.index(text))
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError("glue.source", f"{where}: {task.label} {_short(text)!r}", "a number")
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
    """The entry of a folder with this name, or else with this name in other upper and lower case."""
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
    where = f"{found}, {split.name}"
    fields = [name for _, name in task.texts] + ["label"] * labelled + ["idx"] * (not labelled)
    rows = _rows(builder, split, fields, where)
    if not labelled:  # TFDS stores rows by a hash; the GLUE server knows each by its number
        if any(row["idx"] is None for row in rows):
            raise UserError("glue.source", f"{where}: a row without idx", "the number of every row")
        rows.sort(key=lambda row: row["idx"])
        if lacking := set(range(len(rows))).difference(row["idx"] for row in rows):
            raise UserError(
                "glue.source",
                f"{where}: {len(rows)} rows and none with idx {min(lacking)}",
                "every row, or answers would go to other questions",
            )
    for number, row in enumerate(rows):
        if labelled and task.classes and row["label"] not in range(len(task.classes)):
            raise UserError("glue.source", f"{where} {number}: label {row['label']}", f"0 to {len(task.classes) - 1}")
        if labelled and not (isinstance(row["label"], int | float) and math.isfinite(row["label"])):
            raise UserError("glue.source", f"{where} {number}: label {_short(str(row['label']))}", "a number")
        texts = {name: row[name] for _, name in task.texts}
        if others := [name for name, text in texts.items() if not isinstance(text, str)]:
            raise UserError("glue.source", f"{where} {number}: {others[0]} {texts[others[0]]}", "text")
        yield Example(tuple(texts.values()), float(row["label"]) if labelled else None)


def _builder(folder: epath.Path) -> tfds.core.DatasetBuilder:
    try:
        return tfds.builder_from_directory(folder)
    except Exception as error:  # what its JSON and protocol buffers raise has no type in common
        raise _damaged(f"{folder}", error) from error


def _rows(builder: tfds.core.DatasetBuilder, split: Split, fields: list[str], where: str) -> list[dict[str, Any]]:
    """The `fields` of every row, text as str."""
    try:
        source = builder.as_data_source(split.name)
        rows = (source[number] for number in range(len(source)))
        return [{name: _value(row[name]) for name in fields} for row in rows]
    except Exception as error:  # likewise of ArrayRecord
        raise _damaged(where, error) from error


def _value(value: Any) -> str | int | float:
    return value.decode() if isinstance(value, bytes) else np.asarray(value).item()


def _damaged(where: str, error: Exception) -> UserError:
    found = _short(" ".join(f"{type(error).__name__}: {error}".split()))
    return UserError("glue.source", f"{where}: {found}", "an intact dataset of GLUE", "prepare it again")


def _find(folder: epath.Path, task: Task) -> Iterator[epath.Path]:
    """The task's dataset, whether `folder` is TFDS's data directory or the folder of the tasks."""
    for path in (folder / "glue" / task.name, folder / task.name):
        if path.is_dir():
            yield tfds_text.find(str(absolute(path)), "glue.source")
