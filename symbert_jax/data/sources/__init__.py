"""Where documents come from: an iterator of texts for each kind of source that `data.sources` may name."""

import glob
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from symbert_jax.data.sources import files, python_docs
from symbert_jax.errors import UserError, did_you_mean
from symbert_jax.storage import absolute, is_bucket


def documents(source: str) -> Iterator[str]:
    """The documents of `source` that are not blank, one at a time, in the same order every time.

    source: `tfds:NAME`, `tfds:DIRECTORY`, `bookcorpus:DIRECTORY`, `jsonl:GLOB`, `text:GLOB`, `python-docs` or
      `python-docs:stdlib`. GLOB is a file, a directory (all files below it with a matching ending) or a pattern. A path
      that exists is never a pattern, whatever characters it has. `files.read_text` divides a text file into documents.

    Raises:
      UserError: in the call, there is no such source; while iterating, a text is damaged or there is none.
    """
    scheme, _, where = source.partition(":")
    match scheme:
        case "jsonl":
            paths = _files(where, (".jsonl", ".ndjson", ".json"))
            return _usable(source, itertools.chain.from_iterable(map(files.read_json, paths)))
        case "text":
            return _usable(source, itertools.chain.from_iterable(map(files.read_text, _files(where, (".txt",)))))
        case "tfds":
            from symbert_jax.data.sources import tfds_text  # TFDS takes a second to import

            return _usable(source, tfds_text.documents(tfds_text.find(where)))
        case "bookcorpus":
            from symbert_jax.data.sources import bookcorpus, tfds_text

            return _usable(source, tfds_text.documents(bookcorpus.build(_directory(where))))
        case "python-docs" if where in ("", "stdlib"):
            return _usable(source, python_docs.documents(installed=not where))
        case _:
            known = (
                "tfds:NAME",
                "bookcorpus:DIR",
                "jsonl:GLOB",
                "text:GLOB",
                "python-docs",
                "python-docs:stdlib",
            )
            raise UserError("data.sources", repr(source), "a kind of source", did_you_mean(source, known))


def _usable(source: str, texts: Iterator[str]) -> Iterator[str]:
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


def _files(where: str, endings: tuple[str, ...]) -> list[Path]:
    """Returns the files of a path or pattern, sorted by name."""
    path = _local(where)
    if path.is_file():
        return [path]
    if path.is_dir():
        return files.below(path, endings)
    existing = next(parent for parent in path.parents if parent.exists())  # taken literally
    pattern = os.path.join(glob.escape(os.fspath(existing)), path.relative_to(existing))
    found = [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]
    if not (paths := [match for match in found if match.is_file()]):
        raise UserError("data.sources", f"no file {where}", "a file, a directory or a pattern that matches files")
    return paths


def _directory(where: str) -> Path:
    if not (path := _local(where)).is_dir():
        raise UserError("data.sources", f"no directory {where}", "a directory of books")
    return path


def _local(where: str) -> Path:
    if is_bucket(where):
        hint = "copy them there, or prepare them with TFDS: tfds:URL"
        raise UserError("data.sources", where, "files of a disk", hint)
    return Path(absolute(where, "data.sources"))
