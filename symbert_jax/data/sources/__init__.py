"""The sources of documents: an iterator of texts for each kind of source that `data.sources` may name.

Reading order: `files`, text and JSON lines; `tfds_text`, prepared TFDS datasets; `bookcorpus`, which converts a
directory of books to a TFDS dataset; `python_docs`, with `docstrings`, English that every Python installation has.
"""

import glob
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from symbert_jax.data.sources import files, python_docs
from symbert_jax.errors import UserError, did_you_mean
from symbert_jax.storage import absolute, is_bucket


def documents(source: str) -> Iterator[str]:
    """Returns an iterator of the documents of `source` that are not blank, in an order that is always the same.

    source: `tfds:NAME`, `tfds:DIRECTORY`, `bookcorpus:DIRECTORY`, `jsonl:GLOB`, `text:GLOB`, `python-docs`,
      `python-docs:stdlib` or `python-docs:stdlib+PACKAGE+…`. GLOB is a file, a directory (all files below it with a
      matching ending) or a pattern. A path that exists is never a pattern, whatever characters it has.
      `files.read_text` divides a text file into documents.

    Raises:
      UserError: in the call, if there is no such source; in the iteration, if a text is damaged or all are blank.
    """
    scheme, _, location = source.partition(":")
    match scheme:
        case "jsonl":
            paths = _files(location, (".jsonl", ".ndjson", ".json"))
            return _skip_blank(source, itertools.chain.from_iterable(map(files.read_json, paths)))
        case "text":
            paths = _files(location, (".txt",))
            return _skip_blank(source, itertools.chain.from_iterable(map(files.read_text, paths)))
        case "tfds":
            from symbert_jax.data.sources import tfds_text  # TFDS takes a second to import

            return _skip_blank(source, tfds_text.documents(tfds_text.find(location)))
        case "bookcorpus":
            from symbert_jax.data.sources import bookcorpus, tfds_text

            return _skip_blank(source, tfds_text.documents(bookcorpus.build(_directory(location))))
        case "python-docs" if not location:
            return _skip_blank(source, python_docs.documents())
        case "python-docs" if (names := location.split("+"))[0] == "stdlib":
            return _skip_blank(source, python_docs.documents(names[1:]))
        case _:
            known = ("tfds:NAME", "bookcorpus:DIR", "jsonl:GLOB", "text:GLOB", "python-docs", "python-docs:stdlib")
            raise UserError("data.sources", repr(source), "a kind of source", did_you_mean(source, known))


def _skip_blank(source: str, texts: Iterator[str]) -> Iterator[str]:
    """Yields the texts that are not blank; raises `UserError` if there is none."""
    read = used = 0
    for text in texts:
        read += 1
        if text and not text.isspace():
            used += 1
            yield text
    if not used:
        found = f"{read} documents, all blank" if read else "no document"
        raise UserError("data.sources", f"{found} in {source}", "at least one with text")


def _files(location: str, endings: tuple[str, ...]) -> list[Path]:
    """Returns the files that a path or pattern names, sorted by name."""
    path = _local_path(location)
    if path.is_file():
        return [path]
    if path.is_dir():
        return files.find_files(path, endings)
    existing = next(parent for parent in path.parents if parent.exists())  # the part that is not a pattern
    pattern = os.path.join(glob.escape(os.fspath(existing)), path.relative_to(existing))
    found = [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]
    if not (paths := [match for match in found if match.is_file()]):
        raise UserError("data.sources", f"no file {location}", "a file, a directory or a pattern that matches files")
    return paths


def _directory(location: str) -> Path:
    if not (path := _local_path(location)).is_dir():
        raise UserError("data.sources", f"no directory {location}", "a directory of books")
    return path


def _local_path(location: str) -> Path:
    if is_bucket(location):
        hint = "copy them to a disk, or prepare them with TFDS: tfds:URL"
        raise UserError("data.sources", location, "files on a disk", hint)
    return Path(absolute(location, "data.sources"))
