"""The sources of documents: an iterator of texts for each kind of source that `data.sources` may name.

Reading order: `files`, text and JSON lines; `tfds_text`, prepared TFDS datasets; `bookcorpus`, which converts a
directory of books to a TFDS dataset; `python_docs`, with `docstrings`, English that every Python installation has.
"""

import glob
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from symbert_jax.data.sources import files, python_docs
from symbert_jax.errors import UserError, did_you_mean
from symbert_jax.storage import absolute, is_bucket


class Shard(NamedTuple):
    """A part of a source, which any process can read that sees the files. It can be pickled."""

    source: str  # the entry of `data.sources`
    paths: tuple[str, ...] = ()  # files that are read in this order, by default all of the source


def documents(source: str) -> Iterator[str]:
    """Returns an iterator of the documents of `source` that are not blank, in an order that is always the same.

    source: `tfds:NAME`, `tfds:DIRECTORY`, `bookcorpus:DIRECTORY`, `jsonl:GLOB`, `text:GLOB`, `python-docs`,
      `python-docs:stdlib` or `python-docs:stdlib+PACKAGE+…`. GLOB is a file, a directory (all files below it with a
      matching ending) or a pattern. A path that exists is never a pattern, whatever characters it has.
      `files.read_text` divides a text file into documents.

    Raises:
      UserError: in the call, if there is no such source; in the iteration, if a text is damaged or all are blank.
    """
    return _documents(source, shards(source))


def shards(source: str) -> list[Shard]:
    """Returns the parts of a source, which together have each of its documents once.

    Raises:
      UserError: there is no such source.
    """
    scheme, _, location = source.partition(":")
    match scheme:
        case "jsonl":
            return [Shard(source, (os.fspath(path),)) for path in _files(location, (".jsonl", ".ndjson", ".json"))]
        case "text":
            return [Shard(source, (os.fspath(path),)) for path in _files(location, (".txt",))]
        case "tfds":
            from symbert_jax.data.sources import tfds_text  # TFDS takes a second to import

            return [Shard(source, (name,)) for name in tfds_text.file_names(tfds_text.find(location))]
        case "bookcorpus":
            from symbert_jax.data.sources import bookcorpus, tfds_text

            return [Shard(source, (name,)) for name in tfds_text.file_names(bookcorpus.build(_directory(location)))]
        case "python-docs" if not location or location.split("+")[0] == "stdlib":
            return [Shard(source)]  # it is read on all cores
        case _:
            known = ("tfds:NAME", "bookcorpus:DIR", "jsonl:GLOB", "text:GLOB", "python-docs", "python-docs:stdlib")
            raise UserError("data.sources", repr(source), "a kind of source", did_you_mean(source, known))


def read(shard: Shard) -> Iterator[str]:
    """Yields the documents of a shard that are not blank.

    Raises:
      UserError: a text is damaged.
    """
    return (text for text in _read(shard) if text and not text.isspace())


def no_documents(source: str) -> UserError:
    """Returns the error about a source without a document that is not blank."""
    return UserError("data.sources", f"no document, or only blank ones, in {source}", "at least one with text")


def _documents(source: str, parts: list[Shard]) -> Iterator[str]:
    is_empty = True
    for shard in parts:
        for text in read(shard):
            is_empty = False
            yield text
    if is_empty:
        raise no_documents(source)


def _read(shard: Shard) -> Iterator[str]:
    scheme, _, location = shard.source.partition(":")
    match scheme:
        case "jsonl":
            return itertools.chain.from_iterable(files.read_json(Path(name)) for name in shard.paths)
        case "text":
            return itertools.chain.from_iterable(files.read_text(Path(name)) for name in shard.paths)
        case "python-docs":
            return python_docs.documents(location.split("+")[1:] if location else None)
        case _:
            from symbert_jax.data.sources import tfds_text

            return itertools.chain.from_iterable(map(tfds_text.read, shard.paths))


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
