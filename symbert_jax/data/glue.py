"""GLUE's examples out of TSV folders or TFDS datasets prepared as ArrayRecord, without TensorFlow."""

import dataclasses
import gzip
import math
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import tensorflow_datasets as tfds
from etils import epath

from symbert_jax.data import tfds_text
from symbert_jax.data.tasks import Split, Task
from symbert_jax.errors import UserError
from symbert_jax.storage import absolute


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
        if kind == "tfds":
            return any(split.name in tfds.builder_from_directory(found).info.splits for found in _find(folder, task))
        return _file(folder, task, split) is not None

    def read(self, task: Task, split: Split, *, labelled: bool) -> list[Example]:
        """The examples of a split: labelled ones as they are stored, others by the number that the GLUE server knows.

        Raises:
          UserError: the split is missing or damaged, or a label is missing or unknown; names file and line.
        """
        kind, folder = self._open()
        examples = list((_tfds if kind == "tfds" else _tsv)(folder, task, split, labelled))
        if not examples:
            raise UserError("glue.source", f"no example of {task.name} {split.name} in {folder}", "at least one")
        return examples

    def _open(self) -> tuple[str, epath.Path]:
        kind, _, folder = self.name.partition(":")
        if kind not in ("tsv", "tfds") or not folder:
            raise UserError("glue.source", repr(self.name), "tsv:DIR or tfds:DIR")
        path = epath.Path(folder).expanduser()
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
        raise UserError(
            "glue.source", f"{path}, line 1: columns {', '.join(header) or 'none'}", f"among them {', '.join(lacking)}"
        )
    for number, fields in lines:
        here = f"{path}, line {number}"
        if len(fields) != len(header):
            if task.broken_rows and labelled and len(fields) < len(header):
                continue  # without labels every row counts: its number is its name
            raise UserError("glue.source", f"{here}: {len(fields)} columns", f"{len(header)}: {', '.join(header)}")
        label = _label(task, fields[columns[task.label]], here) if labelled else None
        yield Example(tuple(fields[columns[name]] for name, _ in task.texts), label)


def _lines(path: epath.Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Line numbers from 1 and the fields of each line that is not empty. There is no quoting: a quote is text."""
    try:
        with path.open("rb") as raw, gzip.open(raw) if path.suffix == ".gz" else raw as file:
            for number, line in enumerate(file, start=1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\n").removesuffix("\r")
                if text:
                    yield number, tuple(text.split("\t"))
    except UnicodeDecodeError as error:
        raise UserError("glue.source", f"{path}, line {number}: {error.reason}", "UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UserError("glue.source", f"{path}: {error}", "a readable file") from error


def _label(task: Task, text: str, here: str) -> float:
    if task.classes:
        if text not in task.classes:
            raise UserError("glue.source", f"{here}: {task.label} {text!r}", f"one of {', '.join(task.classes)}")
        return float(task.classes.index(text))
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError("glue.source", f"{here}: {task.label} {text!r}", "a number")
    return number


def _file(folder: epath.Path, task: Task, split: Split) -> epath.Path | None:
    places = [folder / name / file for file in split.files for name in task.folders]
    both = (path for place in places for path in (place, place.with_name(place.name + ".gz")))
    return next((path for path in both if path.exists()), None)


def _tfds(folder: epath.Path, task: Task, split: Split, labelled: bool) -> Iterator[Example]:
    found = next(_find(folder, task), None)
    if found is None:
        wanted = f"glue/{task.name} prepared by TFDS"
        raise UserError("glue.source", f"no dataset {task.name} in {folder}", wanted, "or leave it out of tasks")
    builder = tfds.builder_from_directory(found)
    if split.name not in builder.info.splits:
        raise UserError("glue.source", f"splits {sorted(builder.info.splits)} in {found}", f"a split {split.name}")
    if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        hint = "prepare it with file_format='array_record'"
        raise UserError("glue.source", f"{builder.info.file_format.value} files in {found}", "array_record", hint)
    source = builder.as_data_source(split.name)
    rows = [source[number] for number in range(len(source))]
    if not labelled:  # TFDS stores rows by a hash; the GLUE server knows each by its number
        rows.sort(key=lambda row: row["idx"])
        if lacking := set(range(len(rows))).difference(row["idx"] for row in rows):
            here = f"{found}, {split.name}: {len(rows)} rows and none with idx {min(lacking)}"
            raise UserError("glue.source", here, "every row, or answers would go to other questions")
    for number, row in enumerate(rows):
        if labelled and task.classes and not 0 <= row["label"] < len(task.classes):
            here = f"{found}, {split.name} {number}: label {row['label']}"
            raise UserError("glue.source", here, f"0 to {len(task.classes) - 1}")
        yield Example(tuple(row[name].decode() for _, name in task.texts), float(row["label"]) if labelled else None)


def _find(folder: epath.Path, task: Task) -> Iterator[epath.Path]:
    """The task's dataset, whether `folder` is TFDS's data directory or the folder of the tasks."""
    for place in (folder / "glue" / task.name, folder / task.name):
        if place.is_dir():
            yield tfds_text.find(str(absolute(place)), "glue.source")
