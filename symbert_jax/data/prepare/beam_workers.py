"""What a worker of a cluster does with one element: a shard, a bucket, word counts or the plan of a row file."""

import functools
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Int

from symbert_jax.data import rows, sources, tokenizer
from symbert_jax.data.manifest import SPLITS, File
from symbert_jax.data.prepare import best_fit, buckets, packing
from symbert_jax.data.prepare.buckets import Bucket, Copies
from symbert_jax.data.prepare.documents import bucket_numbers, document_key, key_array
from symbert_jax.data.prepare.encoding import Encoder, split_text
from symbert_jax.data.prepare.local_tasks import UNFINISHED
from symbert_jax.data.prepare.packing import Slice
from symbert_jax.data.prepare.row_files import RowFile, RowFormat, write_row_file
from symbert_jax.data.prepare.shared_files import publish
from symbert_jax.data.prepare.statistics import Statistics
from symbert_jax.data.sources import Shard
from symbert_jax.data.tokenizer import Training

_WORD_PARTS = 64  # files of word counts

Copy = tuple[bytes, int, bytes]  # a document: its key, the number of its source, its text in UTF-8
CopiesOfBucket = tuple[int, Iterable[Copy]]  # the number of a bucket, and its documents in any order


class Job(NamedTuple):
    """What a worker needs to know."""

    folder: str  # of the corpus; it holds the tokenizer and the folder UNFINISHED
    num_sources: int
    bits: int  # there are 2**bits buckets
    validation_fraction: float
    run: str  # different for each run, so that a worker that serves several reads the tokenizer of each

    def unfinished(self, kind: str, name: str = "") -> epath.Path:
        """The path of a file that is removed in the end, or of the folder of all files of its kind."""
        return epath.Path(self.folder) / UNFINISHED / kind / name

    def publish(self, path: epath.Path, content: bytes) -> None:
        """Writes a file, whole or not at all."""
        publish(path, self.unfinished("attempts"), lambda attempt: attempt.write_bytes(content))

    def tokens(self, kind: str, split: str, number: int) -> epath.Path:
        """The file with the token ids of a bucket (`sequences`), or with those of the rows of a window (`windows`)."""
        return self.unfinished(kind, f"{number:05d}-{split}")


def read_shard(numbered: tuple[int, Shard], bits: int) -> Iterator[tuple[int, Copy]]:
    """Yields the documents of a shard, each with its bucket.

    numbered: the number of the source of the shard, in alphabetical order, and the shard.
    """
    source, shard = numbered
    for text in sources.read(shard):
        content = text.encode()
        key = document_key(content)
        yield int(bucket_numbers(key_array(key), bits)[0]), (key, source, content)


def count_words(bucket: CopiesOfBucket, training: Training, job: Job) -> Iterator[tuple[int, dict[str, int]]]:
    """Yields how often each word occurs in a bucket, in parts that are the same for all buckets."""
    texts = buckets.decode(_sort(bucket[1], job.num_sources).texts)
    parts: list[dict[str, int]] = [{} for _ in range(_WORD_PARTS)]
    pieces = (piece for text in texts for piece in split_text(text))
    for word, count in tokenizer.count_words(pieces, training).items():
        parts[zlib.crc32(word.encode()) % _WORD_PARTS][word] = count
    yield from enumerate(parts)


def write_words(part: tuple[int, Iterable[dict[str, int]]], job: Job) -> None:
    """Writes a part of the word counts, added over buckets."""
    number, counts_of_buckets = part
    total = Counter[str]()
    for counts in counts_of_buckets:
        total.update(counts)
    job.publish(job.unfinished("words", f"{number}.json"), json.dumps(total).encode())


def tokenize_bucket(bucket: CopiesOfBucket, job: Job) -> None:
    """Writes the sequences of a bucket and its counts."""
    number, copies = bucket
    documents = _sort(copies, job.num_sources)
    sequences, counts = buckets.tokenize(documents, _load_encoder(job.folder, job.run), job.validation_fraction)
    for split, sequence in zip(SPLITS, sequences, strict=True):
        job.publish(job.tokens("sequences", split, number), sequence.tobytes())
    num_read = np.bincount(documents.sources, minlength=job.num_sources) + documents.duplicates
    buffer = io.BytesIO()
    np.savez_compressed(buffer, num_read=num_read, **vars(counts))
    job.publish(job.unfinished("counts", f"{number:05d}.npz"), buffer.getvalue())


def parse_counts(content: bytes) -> tuple[Int[np.ndarray, " sources"], Statistics]:
    """Returns the number of documents that a bucket was read from, by source, and its counts."""
    with np.load(io.BytesIO(content)) as arrays:
        found = dict(arrays)
    return found.pop("num_read"), Statistics(**found)


def pack_window(window: tuple[str, int], sizes: dict[str, list[int]], form: RowFormat, job: Job) -> None:
    """Packs the documents of a window into rows, and writes their tokens.

    window: its split and its number.
    sizes: by split, the number of tokens in the sequence of each bucket.
    """
    split, number = window

    def read(start: int, end: int) -> np.ndarray:
        return _read_tokens(job, "sequences", split, packing.find_slices(sizes[split], start, end), form)

    documents = best_fit.read_window(read, number, sum(sizes[split]), form.sep)
    packed = best_fit.pack(documents, form.length, form.sep, form.pad)
    job.publish(job.tokens("windows", split, number), packed.tobytes())


def write_row_file_of(call: tuple[str, int, str, list[Slice]], form: RowFormat, job: Job) -> None:
    """Writes a row file and its description.

    call: the split, the number of the file, and the parts of files of a kind that are its rows.
    """
    split, number, kind, slices = call
    tokens = _read_tokens(job, kind, split, slices, form)  # at once: a bucket takes a tenth of a second for each read
    parts = (tokens[start : start + form.tokens_at_once] for start in range(0, len(tokens), form.tokens_at_once))
    path = epath.Path(job.folder) / rows.file_name(split, number)
    written = publish(path, job.unfinished("attempts"), lambda attempt: write_row_file(attempt, parts, form))
    job.publish(description(job, split, number), json.dumps(written).encode())


def description(job: Job, split: str, number: int) -> epath.Path:
    """The file with the description of a row file."""
    return job.unfinished("files", f"{split}-{number}.json")


def parse_description(content: bytes) -> RowFile:
    file, *counts = json.loads(content)
    return RowFile(File(*file), *counts)


def _sort(copies: Iterable[Copy], num_sources: int) -> Bucket:
    keys, numbers, texts = zip(*copies, strict=True)
    return buckets.sort_and_deduplicate(Copies(key_array(b"".join(keys)), np.array(numbers), texts), num_sources)


def _read_tokens(job: Job, kind: str, split: str, slices: list[Slice], form: RowFormat) -> np.ndarray:
    """Returns the tokens of slices of files of a kind, joined."""
    parts, size = [], form.dtype.itemsize
    for number, start, end in slices:
        with job.tokens(kind, split, number).open("rb") as file:
            file.seek(start * size)
            parts.append(np.frombuffer(file.read((end - start) * size), form.dtype))
    return np.concatenate(parts)


@functools.lru_cache(maxsize=1)
def _load_encoder(folder: str, _: str) -> Encoder:
    """Returns an encoder with the tokenizer in a folder."""
    return Encoder(tokenizer.read(epath.Path(folder)))
