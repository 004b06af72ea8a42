"""Where documents come from: an iterator of texts for each kind of source that `data.sources` may name."""

import glob
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from symbert_jax.data import files, python_docs
from symbert_jax.errors import UserError, did_you_mean


def documents(source: str) -> Iterator[str]:
    """The documents of `source` that are not blank, one at a time, in the same order every time.

    source: `tfds:NAME`, `tfds:DIRECTORY`, `bookcorpus:DIRECTORY`, `jsonl:GLOB`, `text:GLOB`, `python-docs` or
      `python-docs:stdlib`.

    Raises:
      UserError: in the call, there is no such source; while iterating, a text is damaged or there is none.
    """
    scheme, _, where = source.partition(":")
    match scheme:
        case "jsonl":
            return _usable(source, itertools.chain.from_iterable(map(files.read_json_lines, _files(where))))
        case "text":
            return _usable(source, map(files.read_text, _files(where)))
        case "tfds":
            from symbert_jax.data import tfds_text  # TFDS takes a second to import

            return _usable(source, tfds_text.documents(tfds_text.find(where)))
        case "bookcorpus":
            from symbert_jax.data import bookcorpus, tfds_text

            return _usable(source, tfds_text.documents(bookcorpus.build(Path(where).expanduser())))
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
    """`texts` without the blank ones; it is an error if that leaves nothing."""
    read = used = 0
    for text in texts:
        read += 1
        if text and not text.isspace():
            used += 1
            yield text
    if not used:
        found = f"{read} documents, all blank" if read else "no document"
        raise UserError("data.sources", f"{found} in {source}", "at least one with text")


def _files(pattern: str) -> list[Path]:
    paths = [Path(path) for path in sorted(glob.glob(os.path.expanduser(pattern), recursive=True))]
    if not (paths := [path for path in paths if path.is_file()]):
        raise UserError("data.sources", f"no file {pattern}", "a pattern that matches files")
    return paths
