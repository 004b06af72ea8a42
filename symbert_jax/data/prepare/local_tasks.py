"""What a worker of the local engine does: each function reads files, writes files, and returns counts."""

import functools
import io
import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from symbert_jax.data import rows, sources, tokenizer
from symbert_jax.data.manifest import SPLITS
from symbert_jax.data.prepare import best_fit, buckets, packing, runs
from symbert_jax.data.prepare.buckets import Bucket, Copies
from symbert_jax.data.prepare.documents import key_array
from symbert_jax.data.prepare.encoding import Encoder, split_text
from symbert_jax.data.prepare.packing import Slice
from symbert_jax.data.prepare.row_files import RowFile, RowFormat, write_row_file
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
    with add_path_to_os_errors(path):
        for run, documents in runs.write_runs(sources.read(shard), job.bits, path):
            sizes[run.name] = run.stat().st_size
            count += documents
    write_whole(job.shard(number), json.dumps({"documents": count, "runs": sizes}).encode())
    return shard.source, count


def count_words(job: Job, bucket: int, training: Training) -> Counter[str]:
    texts = buckets.decode(_read_bucket(job, bucket).texts)
    return tokenizer.count_words((piece for text in texts for piece in split_text(text)), training)


def tokenize_bucket(job: Job, bucket: int) -> int:
    """Writes the sequences of a bucket and its statistics; returns the number of documents that it was read from."""
    documents = _read_bucket(job, bucket)
    sequences, counts = buckets.tokenize(documents, load_encoder(job.folder), job.validation_fraction)
    for split, sequence in zip(SPLITS, sequences, strict=True):
        write_whole(job.sequence(split, bucket), sequence.tobytes())
    buffer = io.BytesIO()
    np.savez(buffer, **vars(counts))
    write_whole(job.counts(bucket), buffer.getvalue())
    return len(documents.texts) + int(documents.duplicates.sum())


def _read_bucket(job: Job, bucket: int) -> Bucket:
    """Returns the distinct documents of a bucket."""
    keys, source_numbers, texts = [], [], list[bytes]()
    for path in sorted(job.runs.iterdir()):
        keys_of_run, texts_of_run = runs.read_bucket(path, bucket)
        keys.append(keys_of_run)
        source_numbers.append(np.full(len(texts_of_run), int(path.name.split("-")[0])))
        texts += texts_of_run
    copies = Copies(key_array(b"".join(keys)), np.concatenate(source_numbers), texts)
    return buckets.sort_and_deduplicate(copies, job.num_sources)


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
    path = job.folder / rows.file_name(split, number)
    return split, number, write_row_file(path, _read_tokens(paths, slices, form), form)


def token_counts(paths: list[Path], form: RowFormat) -> list[int]:
    return [path.stat().st_size // form.dtype.itemsize for path in paths]


def _read_tokens(paths: list[Path], slices: list[Slice], form: RowFormat) -> np.ndarray:
    tokens, position = np.empty(sum(end - start for _, start, end in slices), form.dtype), 0
    for i, start, end in slices:
        part = np.fromfile(paths[i], form.dtype, end - start, offset=start * form.dtype.itemsize)
        tokens[position : position + len(part)] = part
        position += len(part)
    return tokens


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file so that a kill at any moment leaves the whole file or none."""
    new = path.with_name(f"{path.name}.new")
    with add_path_to_os_errors(path):
        new.write_bytes(content)
    new.replace(path)
