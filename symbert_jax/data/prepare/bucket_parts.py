"""The documents of a bucket, read from runs, in parts that fit in memory however large the corpus is."""

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from symbert_jax.data.prepare import buckets, runs
from symbert_jax.data.prepare.buckets import Bucket, Copies
from symbert_jax.data.prepare.documents import key_array
from symbert_jax.storage import add_path_to_os_errors

_PART_BYTES = 1 << 25  # the approximate size of the text in a part, which a worker holds in memory


def read_parts(folder: Path, bits: int, bucket: int, num_sources: int) -> Iterator[Bucket]:
    """Yields the distinct documents of a bucket, in the order of their keys.

    A bucket that is larger than a part is first written to runs of its own, whose buckets are the parts. The name of a
    run begins with the number of its source.

    folder: the folder of the runs, which hold 2**bits buckets.
    """
    paths = sorted(folder.iterdir())
    size = sum(path.stat().st_size for path in paths) >> bits  # hashes spread documents evenly
    if size <= _PART_BYTES:
        yield _read_bucket(paths, bucket, num_sources)
        return
    part_bits = (size // _PART_BYTES).bit_length()
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        for source, paths_of_source in itertools.groupby(paths, _source_number):
            texts = (text for path in paths_of_source for text in runs.read_bucket(path, bucket)[1])
            with add_path_to_os_errors(name):
                list(runs.write_runs(texts, part_bits, Path(name, f"{source:05d}"), start=bits))
        paths = sorted(Path(name).iterdir())
        for part in range(1 << part_bits):
            yield _read_bucket(paths, part, num_sources)


def _read_bucket(paths: list[Path], bucket: int, num_sources: int) -> Bucket:
    # A bucket without documents, of which there are no runs of its own, has the numbers of no source.
    keys, source_numbers, texts = [], [np.empty(0, np.int64)], list[bytes]()
    for path in paths:
        keys_of_run, texts_of_run = runs.read_bucket(path, bucket)
        keys.append(keys_of_run)
        source_numbers.append(np.full(len(texts_of_run), _source_number(path)))
        texts += texts_of_run
    copies = Copies(key_array(b"".join(keys)), np.concatenate(source_numbers), texts)
    return buckets.sort_and_deduplicate(copies, num_sources)


def _source_number(path: Path) -> int:
    return int(path.name.split("-")[0])
