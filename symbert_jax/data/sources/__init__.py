"""The sources of documents: an iterator of texts for each kind of source that `data.sources` may name.

Reading order: `files`, which finds files on a disk or in a bucket; `decoding`, their text; `json_lines`, `plain_text`
and `parquet`, the documents of a file; `file_shards`, which divides files among processes; `tfds_text`, prepared TFDS
datasets; `bookcorpus`, which converts a directory of books to a TFDS dataset; `python_docs`, with `docstrings`, English
that every Python installation has.
"""

from collections.abc import Iterator
from pathlib import Path

from symbert_jax.data.sources import file_shards, files, json_lines, parquet, plain_text, python_docs
from symbert_jax.data.sources.file_shards import Shard
from symbert_jax.errors import UserError, did_you_mean
from symbert_jax.storage import absolute, is_bucket

_KNOWN = (
    "tfds:NAME",
    "bookcorpus:DIR",
    "jsonl:GLOB",
    "text:GLOB",
    "parquet:GLOB",
    "python-docs",
    "python-docs:stdlib",
)


def documents(source: str) -> Iterator[str]:
    """Returns an iterator of the documents of `source` that are not blank, in an order that is always the same.

    source: `tfds:NAME`, `tfds:DIRECTORY`, `bookcorpus:DIRECTORY`, `jsonl:GLOB`, `text:GLOB`, `parquet:GLOB`,
      `python-docs`, `python-docs:stdlib` or `python-docs:stdlib+PACKAGE+…`. GLOB is a file, a directory (all files
      below it with a matching ending) or a pattern, on a disk or in a bucket. `plain_text.read` divides a text file
      into documents.

    Raises:
      UserError: in the call, if there is no such source; in the iteration, if a text is damaged or all are blank.
    """
    return _documents(source, shards(source))


def shards(source: str) -> list[Shard]:
    """Returns the parts of a source, which together have each of its documents once.

    They depend on the source alone, not on the machine that reads it.

    Raises:
      UserError: there is no such source.
    """
    scheme, _, location = source.partition(":")
    match scheme:
        case "jsonl":
            found = files.find_files(location, (".jsonl", ".ndjson", ".json"))
            return file_shards.of_files(source, found, file_shards.divide_json)
        case "text":
            return file_shards.of_files(source, files.find_files(location, (".txt",)), file_shards.divide_text)
        case "parquet":
            return file_shards.of_files(source, files.find_files(location, (".parquet",)), file_shards.divide_parquet)
        case "tfds":
            from symbert_jax.data.sources import tfds_text  # TFDS takes a second to import

            return tfds_text.shards(source, tfds_text.find(location))
        case "bookcorpus":
            from symbert_jax.data.sources import bookcorpus, tfds_text

            return tfds_text.shards(source, bookcorpus.build(_directory(location)))
        case "python-docs" if not location or location.split("+")[0] == "stdlib":
            return [Shard(source)]  # it is read on all cores
        case _:
            raise UserError("data.sources", repr(source), "a kind of source", did_you_mean(source, _KNOWN))


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
            return file_shards.read_files(shard, json_lines.read)
        case "text":
            return file_shards.read_files(shard, plain_text.read)
        case "parquet":
            return file_shards.read_files(shard, parquet.read)
        case "python-docs":
            return python_docs.documents(location.split("+")[1:] if location else None)
        case _:
            from symbert_jax.data.sources import tfds_text

            return tfds_text.read(shard)


def _directory(location: str) -> Path:
    """Returns the path of a directory of books on a disk."""
    if is_bucket(location):
        hint = "copy them to a disk, or name their files: text:URL"
        raise UserError("data.sources", location, "files on a disk", hint)
    if not (path := Path(absolute(location, "data.sources"))).is_dir():
        raise UserError("data.sources", f"no directory {location}", "a directory of books")
    return path
