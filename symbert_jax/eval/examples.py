"""Reads the examples of GLUE from TSV folders, or from TFDS datasets prepared as ArrayRecord, without TensorFlow."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from symbert_jax.data.sources import decoding, tfds_text
from symbert_jax.errors import UserError
from symbert_jax.eval.tasks import Split, Task
from symbert_jax.storage import HEAD, MARKUP, absolute, bucket_errors_as_user_errors, check_format

_READABLE = "a TSV file in UTF-8, plain or as .gz, .bz2, .xz or .zst"


class Example(NamedTuple):
    texts: tuple[str, ...]  # one sentence or two
    label: float | None  # the class id, or the value of a regression; None in an unlabelled split


@dataclasses.dataclass(frozen=True)
class Source:
    """The folder that holds the data of all tasks, as TSV files or TFDS datasets."""

    name: str  # tsv:DIR or tfds:DIR, as in the config

    def has(self, task: Task, split: Split) -> bool:
        """Whether the split exists."""
        kind, folder = self._locate()
        with bucket_errors_as_user_errors("glue.source", folder, "a bucket that can be read"):
            if kind == "tfds":
                return any(split.name in _open_dataset(path).info.splits for path in _find_datasets(folder, task))
            return _find_file(folder, task, split) is not None

    def read(self, task: Task, split: Split, *, labelled: bool) -> list[Example]:
        """Returns the examples of a split.

        Labelled examples are in stored order. Unlabelled ones are in the order of the index by which the GLUE server
        identifies them: the row of a TSV file, the field `idx` in TFDS.

        Raises:
          UserError: the split is missing or damaged, or a label is missing or unknown; the error says where.
        """
        kind, folder = self._locate()
        with bucket_errors_as_user_errors("glue.source", folder, "a bucket that can be read"):
            examples = list((_read_tfds if kind == "tfds" else _read_tsv)(folder, task, split, labelled))
        if not examples:
            raise UserError("glue.source", f"no example of {task.name} {split.name} in {folder}", "at least one")
        return examples

    def _locate(self) -> tuple[str, epath.Path]:
        """Returns the kind of the source, `tsv` or `tfds`, and its folder.

        Raises:
          UserError: the name of the source is invalid, or the folder does not exist.
        """
        kind, _, folder = self.name.partition(":")
        if kind not in ("tsv", "tfds") or not folder:
            raise UserError("glue.source", repr(self.name), "tsv:DIR or tfds:DIR")
        path = absolute(folder, "glue.source")
        with bucket_errors_as_user_errors("glue.source", path, "a bucket that can be read"):
            if not path.is_dir():
                raise UserError("glue.source", f"no folder {path}", "the folder that holds a folder for each task")
        return kind, path


def _read_tsv(folder: epath.Path, task: Task, split: Split, labelled: bool) -> Iterator[Example]:
    path = _find_file(folder, task, split)
    if path is None:
        wanted = " or ".join(f"{task.folders[0]}/{name}[.gz]" for name in split.files)
        found = f"no {split.name} split of {task.name} in {folder}"
        raise UserError("glue.source", found, wanted, "or leave the task out of tasks")
    lines = _read_lines(path)
    header: tuple[str, ...] = task.header
    if not (labelled and header):  # if `task.header` is set, only the unlabelled files have a header line
        _, header = next(lines, (1, ()))
    columns = {name: header.index(name) for name in header}
    needed = [name for name, _ in task.texts] + [task.label] * labelled
    if missing := [name for name in needed if name not in columns]:
        found = f"{path}, line 1: columns {_shorten(', '.join(header)) or 'none'}"
        wanted = f"a header line with {', '.join(missing)}"
        raise UserError("glue.source", found, wanted, "it names the columns, separated by tabs")
    for number, fields in lines:
        where = f"{path}, line {number}"
        if len(fields) != len(header):
            if task.has_short_rows and labelled and len(fields) < len(header):
                continue  # an unlabelled row is not skipped: the GLUE server identifies a prediction by its row number
            wanted = f"{len(header)} columns: {_shorten(', '.join(header))}"
            raise UserError("glue.source", f"{where}: {len(fields)} columns", wanted)
        label = _parse_label(task, fields[columns[task.label]], where) if labelled else None
        yield Example(tuple(fields[columns[name]] for name, _ in task.texts), label)


def _read_lines(path: epath.Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yields the number (from 1) and the fields of each line that is not empty. A quote is an ordinary character."""
    text = _read_text(path)
    line_end = "\n" if "\n" in text else "\r"  # classic Mac OS ended lines with \r alone
    for number, line in enumerate(text.split(line_end), start=1):
        if line := line.rstrip("\r"):
            yield number, tuple(line.split("\t"))


def _read_text(path: epath.Path) -> str:
    """Returns the text of a file. It fits in memory: the largest file, MNLI's train.tsv, has a few hundred megabytes.

    Raises:
      UserError: the file is damaged, is not Unicode text, or has another format, which the error names.
    """
    text = "".join(decoding.decode(path, "glue.source", _READABLE))
    check_format(text[:HEAD].encode(), path, "glue.source", _READABLE, refused=MARKUP)
    if (zero := text.find("\0")) >= 0:
        where = f"{path}, line {text.count(chr(10), 0, zero) + 1}"
        raise UserError("glue.source", f"{where}: a zero byte", "text", "copy or convert the file again")
    return text


def _shorten(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:100]}…"


def _parse_label(task: Task, text: str, where: str) -> float:
    if task.classes:
        if text not in task.classes:
            found = f"{where}: {task.label} {_shorten(text)!r}"
            raise UserError("glue.source", found, f"one of {', '.join(task.classes)}")
        return float(task.classes.index(text))
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError("glue.source", f"{where}: {task.label} {_shorten(text)!r}", "a number")
    return number


def _find_file(folder: epath.Path, task: Task, split: Split) -> epath.Path | None:
    """Returns the TSV file of a split, plain or as .gz, or None if there is none."""
    for file in split.files:
        for name in task.folders:
            if (task_folder := _find_entry(folder, name)) is None:
                continue
            for path in (_find_entry(task_folder, file), _find_entry(task_folder, file + ".gz")):
                if path:
                    return path
    return None


def _find_entry(folder: epath.Path, name: str) -> epath.Path | None:
    """Returns the entry with this name, else one whose name differs only in upper and lower case, else None."""
    if (folder / name).exists():
        return folder / name
    if not folder.is_dir():
        return None
    return min((path for path in folder.iterdir() if path.name.lower() == name.lower()), default=None)


def _read_tfds(folder: epath.Path, task: Task, split: Split, labelled: bool) -> Iterator[Example]:
    path = next(_find_datasets(folder, task), None)
    if path is None:
        wanted = f"glue/{task.name} prepared by TFDS"
        hint = "or leave the task out of tasks"
        raise UserError("glue.source", f"no dataset {task.name} in {folder}", wanted, hint)
    builder = _open_dataset(path)
    if split.name not in builder.info.splits:
        raise UserError("glue.source", f"splits {sorted(builder.info.splits)} in {path}", f"a split {split.name}")
    if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        hint = "prepare it with file_format='array_record'"
        raise UserError("glue.source", f"{builder.info.file_format.value} files in {path}", "array_record", hint)
    where = f"{path}, {split.name}"
    fields = [name for _, name in task.texts] + ["label"] * labelled + ["idx"] * (not labelled)
    rows = _read_rows(builder, split, fields, where)
    if not labelled:  # TFDS stores rows in the order of a hash
        if any(row["idx"] is None for row in rows):
            raise UserError("glue.source", f"{where}: a row without idx", "an idx in every row")
        rows.sort(key=lambda row: row["idx"])
        if missing := set(range(len(rows))).difference(row["idx"] for row in rows):
            found = f"{where}: {len(rows)} rows, none of them with idx {min(missing)}"
            hint = "the GLUE server identifies a prediction by idx"
            raise UserError("glue.source", found, f"every idx from 0 to {len(rows) - 1}", hint)
    for number, row in enumerate(rows):
        if labelled and task.classes and row["label"] not in range(len(task.classes)):
            raise UserError("glue.source", f"{where} {number}: label {row['label']}", f"0 to {len(task.classes) - 1}")
        if labelled and not (isinstance(row["label"], int | float) and math.isfinite(row["label"])):
            raise UserError("glue.source", f"{where} {number}: label {_shorten(str(row['label']))}", "a number")
        texts = {name: row[name] for _, name in task.texts}
        if wrong := [name for name, text in texts.items() if not isinstance(text, str)]:
            raise UserError("glue.source", f"{where} {number}: {wrong[0]} {texts[wrong[0]]}", "text")
        yield Example(tuple(texts.values()), float(row["label"]) if labelled else None)


def _open_dataset(folder: epath.Path) -> tfds.core.DatasetBuilder:
    try:
        return tfds.builder_from_directory(folder)
    except Exception as error:  # errors in TFDS's JSON and protocol buffers have no type in common
        raise _damage_error(f"{folder}", error) from error


def _read_rows(builder: tfds.core.DatasetBuilder, split: Split, fields: list[str], where: str) -> list[dict[str, Any]]:
    """Returns the `fields` of every row, with text as str."""
    try:
        records = builder.as_data_source(split.name)
        rows = (records[number] for number in range(len(records)))
        return [{name: _to_python(row[name]) for name in fields} for row in rows]
    except Exception as error:  # the exceptions of ArrayRecord have no type in common
        raise _damage_error(where, error) from error


def _to_python(value: Any) -> str | int | float:
    return value.decode() if isinstance(value, bytes) else np.asarray(value).item()


def _damage_error(where: str, error: Exception) -> UserError:
    found = _shorten(" ".join(f"{type(error).__name__}: {error}".split()))
    return UserError("glue.source", f"{where}: {found}", "an intact dataset of GLUE", "prepare it again")


def _find_datasets(folder: epath.Path, task: Task) -> Iterator[epath.Path]:
    """Yields the task's datasets; `folder` is TFDS's data directory or the folder of the tasks."""
    for path in (folder / "glue" / task.name, folder / task.name):
        if path.is_dir():
            yield tfds_text.find(str(absolute(path)), "glue.source")
