"""Sorted runs: files of documents in the order of their keys, from which the documents of a bucket are read at once."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from symbert_jax.data.prepare.documents import KEY_BYTES, bucket_numbers, document_key, key_array

_RUN_BYTES = 1 << 25  # the approximate size of the text in a run, which a worker holds in memory
_RECORD = np.dtype([("key", f"V{KEY_BYTES}"), ("bytes", "<u8")])  # of a document
_ENTRY = np.dtype([("start", "<u8"), ("documents", "<u8")])  # of a bucket: where it starts in the file, and its size


def write_runs(texts: Iterable[bytes], bits: int, path: Path, start: int = 0) -> Iterator[tuple[Path, int]]:
    """Writes documents to runs, PATH-0, PATH-1, …; yields the path of each and the number of its documents.

    A run begins with an entry for each of the 2**bits buckets. A bucket holds a record for each document, and then
    their texts.

    start: how many bits the keys of all documents have in common; the buckets are numbered by the bits after these.
    """
    numbers = itertools.count()
    for batch in _group(texts):
        run = Path(f"{path}-{next(numbers)}")
        _write_run(batch, bits, run, start)
        yield run, len(batch)


def _group(texts: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Yields the texts in lists of about _RUN_BYTES."""
    batch, size = list[bytes](), 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _RUN_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def read_bucket(path: Path, bucket: int) -> tuple[bytes, list[bytes]]:
    """Returns the joined keys and the texts of the documents of a bucket in a run."""
    with path.open("rb") as file:
        file.seek(bucket * _ENTRY.itemsize)
        ((start, count),) = np.fromfile(file, _ENTRY, 1).tolist()
        file.seek(start)
        records = np.fromfile(file, _RECORD, count)
        ends = np.cumsum(records["bytes"], dtype=np.int64).tolist()
        content = file.read(ends[-1] if ends else 0)
    texts = [content[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return records["key"].tobytes(), texts


def _write_run(texts: Sequence[bytes], bits: int, path: Path, start: int) -> None:
    joined = b"".join(map(document_key, texts))
    keys = key_array(joined)
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    texts = [texts[i] for i in order.tolist()]
    records = np.empty(len(texts), _RECORD)
    records["key"] = np.frombuffer(joined, f"V{KEY_BYTES}")[order]
    records["bytes"] = list(map(len, texts))
    buckets = np.arange(1 << bits, dtype=np.uint64)
    ends = np.searchsorted(bucket_numbers(keys[order], bits, start), buckets, side="right")
    starts = np.concatenate([[0], ends[:-1]])
    bytes_before = np.concatenate([[0], np.cumsum(records["bytes"].astype(np.int64))])
    entries = np.empty(len(buckets), _ENTRY)
    entries["start"] = entries.nbytes + starts * _RECORD.itemsize + bytes_before[starts]
    entries["documents"] = ends - starts
    with path.open("wb") as file:
        file.write(entries.tobytes())
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            file.write(records[start:end].tobytes())
            file.writelines(texts[start:end])
