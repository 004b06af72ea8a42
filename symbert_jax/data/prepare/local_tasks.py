"""What a worker of the local engine does: each function reads files, writes files, and returns counts."""

import contextlib
import functools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from symbert_jax.data import rows, sources, tokenizer
from symbert_jax.data.manifest import SPLITS
from symbert_jax.data.prepare import best_fit, buckets, packing, runs, statistics
from symbert_jax.data.prepare.bucket_parts import read_parts
from symbert_jax.data.prepare.buckets import Bucket
from symbert_jax.data.prepare.encoding import Encoder, split_text
from symbert_jax.data.prepare.packing import Slice
from symbert_jax.data.prepare.row_files import RowFile, RowFormat, write_row_file
from symbert_jax.data.prepare.statistics import Statistics
from symbert_jax.data.sources import Shard
from symbert_jax.data.tokenizer import Training
from symbert_jax.data.vocabulary import VOCAB
from symbert_jax.storage import add_path_to_os_errors

UNFINISHED = "unfinished"  # the folder, in that of the corpus, of the files that are removed in the end


class Job(NamedTuple):
    """What a worker needs to know."""

    folder: Path  # of the corpus; it holds the vocabulary and the folder UNFINISHED
    num_sources: int
    bits: int  # there are 2**bits buckets
    validation_fraction: float

    def shard(self, number: int) -> Path:
        """The file that says that a shard has been read, and how many documents and which runs it has."""
        return self.folder / UNFINISHED / "shards" / f"{number:06d}.json"

    @property
    def runs(self) -> Path:
        """The folder of the runs. The name of a run begins with the number of its source."""
        return self.folder / UNFINISHED / "runs"

    def sequence(self, split: str, bucket: int) -> Path:
        """The file with the token ids of a bucket."""
        return self.folder / UNFINISHED / "buckets" / f"{bucket:05d}-{split}"

    def sequences(self, split: str) -> list[Path]:
        return [self.sequence(split, bucket) for bucket in range(1 << self.bits)]

    def window(self, split: str, number: int) -> Path:
        """The file with the token ids of rows into which the documents of a window are packed."""
        return self.folder / UNFINISHED / "windows" / f"{number:05d}-{split}"

    def counts(self, bucket: int) -> Path:
        """The file with the statistics of a bucket. It is the last file of the bucket that is written."""
        return self.folder / UNFINISHED / "buckets" / f"{bucket:05d}.npz"


def read_shard(job: Job, number: int, source: int, shard: Shard) -> tuple[str, int]:
    """Writes the documents of a shard to runs; returns the name of its source, and their number."""
    count, sizes, path = 0, {}, job.runs / f"{source:05d}-{number:06d}"
    texts = (text.encode() for text in sources.read(shard))
    with add_path_to_os_errors(path):
        for run, documents in runs.write_runs(texts, job.bits, path):
            sizes[run.name] = run.stat().st_size
            count += documents
    write_whole(job.shard(number), json.dumps({"documents": count, "runs": sizes}).encode())
    return shard.source, count


def count_words(job: Job, bucket: int, training: Training) -> Counter[str]:
    texts = (text for part in _read_parts(job, bucket) for text in buckets.decode(part.texts))
    return tokenizer.count_words((piece for text in texts for piece in split_text(text)), training)


def tokenize_bucket(job: Job, bucket: int) -> int:
    """Writes the sequences of a bucket and its statistics; returns the number of documents that it was read from."""
    encoder, counts, num_read = load_encoder(job.folder), list[Statistics](), 0
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open_whole(job.sequence(split, bucket))) for split in SPLITS]
        for documents in _read_parts(job, bucket):
            sequences, counts_of_part = buckets.tokenize(documents, encoder, job.validation_fraction)
            for file, sequence in zip(files, sequences, strict=True):
                file.write(sequence.data)
            counts.append(counts_of_part)
            num_read += len(documents.texts) + int(documents.duplicates.sum())
    with open_whole(job.counts(bucket)) as file:
        np.savez(file, **vars(statistics.add(counts)))
    return num_read


def _read_parts(job: Job, bucket: int) -> Iterator[Bucket]:
    return read_parts(job.runs, job.bits, bucket, job.num_sources)


def load_encoder(folder: Path) -> Encoder:
    """Returns an encoder with the tokenizer in a folder."""
    files = [folder / name for name in (VOCAB, tokenizer.TOKENIZER)]
    return _load_encoder_once(folder, max(path.stat().st_mtime_ns for path in files if path.exists()))


@functools.lru_cache(maxsize=1)
def _load_encoder_once(folder: Path, _: int) -> Encoder:
    return Encoder(tokenizer.read(folder))


def pack_window(job: Job, split: str, window: int, form: RowFormat) -> None:
    if (path := job.window(split, window)).exists():
        return
    paths = job.sequences(split)
    counts = token_counts(paths, form)

    def read(start: int, end: int) -> np.ndarray:
        return _read_tokens(paths, packing.find_slices(counts, start, end), form)

    documents = best_fit.read_window(read, window, sum(counts), form.sep)
    write_whole(path, best_fit.pack(documents, form.length, form.sep, form.pad).tobytes())


def write_file(
    job: Job, split: str, number: int, paths: list[Path], slices: list[Slice], form: RowFormat
) -> tuple[str, int, RowFile]:
    _load_encoder_once.cache_clear()  # makes room for the index of the file, which grows with its rows
    path = job.folder / rows.file_name(split, number)
    parts = (_read_tokens(paths, part, form) for part in packing.split_slices(slices, form.tokens_at_once))
    return split, number, write_row_file(path, parts, form)


def token_counts(paths: list[Path], form: RowFormat) -> list[int]:
    return [path.stat().st_size // form.dtype.itemsize for path in paths]


def _read_tokens(paths: list[Path], slices: list[Slice], form: RowFormat) -> np.ndarray:
    tokens, position = np.empty(sum(end - start for _, start, end in slices), form.dtype), 0
    for i, start, end in slices:
        part = np.fromfile(paths[i], form.dtype, end - start, offset=start * form.dtype.itemsize)
        tokens[position : position + len(part)] = part
        position += len(part)
    return tokens


@contextlib.contextmanager
def open_whole(path: Path) -> Iterator[IO[bytes]]:
    """Yields a file to write, so that a kill at any moment leaves the whole file or none."""
    new = path.with_name(f"{path.name}.new")
    with add_path_to_os_errors(path), new.open("wb") as file:
        yield file
    new.replace(path)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file so that a kill at any moment leaves the whole file or none."""
    with open_whole(path) as file:
        file.write(content)
