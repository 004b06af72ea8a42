"""The parts into which a source is divided, so that several processes or machines can read it."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from etils import epath

from symbert_jax.data.sources import json_lines, parquet, plain_text
from symbert_jax.data.sources.files import File
from symbert_jax.storage import bucket_errors_as_user_errors, is_bucket

SHARD_BYTES = 1 << 24  # the approximate size of a shard on the disk


class Shard(NamedTuple):
    """A part of a source, which any process can read that sees the files. It can be pickled."""

    source: str  # the entry of `data.sources`
    paths: tuple[str, ...] = ()  # files that are read in this order, by default all of the source
    # The part of the only file, by default all of it: byte offsets in JSON lines and text, row groups of Parquet,
    # records of a TFDS dataset.
    start: int = 0
    end: int | None = None
    size: int = 1 << 22  # bytes on the disk; an assumption where there is no file


def of_files(source: str, files: Iterable[File], divide: Callable[[File], list[tuple[int, int]]]) -> list[Shard]:
    """Returns shards of about SHARD_BYTES in the order of the files: several small files, a file, or a part of one.

    They depend only on the files, not on the number of processors.

    divide: returns the parts of a file of more than SHARD_BYTES, none if it cannot be divided.
    """
    files = list(files)
    with ThreadPoolExecutor() as pool:
        parts = list(pool.map(lambda file: divide(file) if file.size > SHARD_BYTES else [], files))
    shards, group, group_size = list[Shard](), list[str](), 0
    for file, its_parts in zip(files, parts, strict=True):
        if group and group_size + file.size > SHARD_BYTES:
            shards.append(Shard(source, tuple(group), size=group_size))
            group, group_size = [], 0
        if its_parts:
            shards += [Shard(source, (file.path,), *part, file.size // len(its_parts)) for part in its_parts]
        else:
            group.append(file.path)
            group_size += file.size
    return [*shards, Shard(source, tuple(group), size=group_size)] if group else shards


def divide_json(file: File) -> list[tuple[int, int]]:
    return _byte_ranges(file) if json_lines.can_divide(to_path(file.path)) else []


def divide_text(file: File) -> list[tuple[int, int]]:
    return _byte_ranges(file) if plain_text.can_divide(to_path(file.path)) else []


def divide_parquet(file: File) -> list[tuple[int, int]]:
    return parquet.divide(to_path(file.path), SHARD_BYTES)


def read_files(shard: Shard, read: Callable[[Path | epath.Path, int, int | None], Iterator[str]]) -> Iterator[str]:
    """Yields the documents of the files of a shard, each read by `read`."""
    for name in shard.paths:
        with bucket_errors_as_user_errors("data.sources", name, "a bucket that can be read"):
            yield from read(to_path(name), shard.start, shard.end)


def to_path(name: str) -> Path | epath.Path:
    return epath.Path(name) if is_bucket(name) else Path(name)


def _byte_ranges(file: File) -> list[tuple[int, int]]:
    return [(start, min(start + SHARD_BYTES, file.size)) for start in range(0, file.size, SHARD_BYTES)]
