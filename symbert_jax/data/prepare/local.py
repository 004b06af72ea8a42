"""The local engine: `prepare` on the cores of one machine, in memory that does not grow with the corpus.

1. Workers read the shards of the sources and write the documents, sorted by key, to runs.
2. To train a vocabulary, workers count the words in each bucket.
3. Workers read a bucket from all runs, drop duplicates, tokenize it, and write its sequences of token ids.
4. Workers cut the sequences into rows and write the row files.

Every file is written whole or not at all, and a later run continues with the files that are missing.
"""

import contextlib
import functools
import importlib
import io
import json
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from symbert_jax.config import Config
from symbert_jax.data import rows, sources, tokenizer
from symbert_jax.data.manifest import SPLITS
from symbert_jax.data.prepare import buckets, packing, runs, statistics
from symbert_jax.data.prepare.buckets import Bucket, Copies
from symbert_jax.data.prepare.documents import key_array
from symbert_jax.data.prepare.encoding import split_text
from symbert_jax.data.prepare.packing import Slice
from symbert_jax.data.prepare.row_files import RowFile, RowFormat, row_format, write_row_file
from symbert_jax.data.prepare.workers import Workers
from symbert_jax.data.prepare.written import Written, check_rows
from symbert_jax.data.sources import Shard
from symbert_jax.data.tokenizer import TextTokenizer, Tokenizer, Training
from symbert_jax.data.vocabulary import VOCAB
from symbert_jax.progress import Progress
from symbert_jax.storage import add_path_to_os_errors, remove_contents

UNFINISHED = "unfinished"  # the folder, in that of the corpus, of the files that are removed in the end

_BUCKET_BYTES = 1 << 20  # of the sources on the disk for each bucket
_MAX_BITS = 12  # so there are at most 4096 buckets
_WORKER_BYTES = 1 << 23  # of the sources on the disk for each worker: starting one takes a second
_PROGRESS_SECONDS = 30  # between progress lines if the output is not a terminal


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

    def counts(self, bucket: int) -> Path:
        """The file with the statistics of a bucket. It is the last file of the bucket that is written."""
        return self.folder / UNFINISHED / "buckets" / f"{bucket:05d}.npz"


def write_rows(config: Config, recipe: dict[str, Any], folder: Path) -> Written:
    """Writes the vocabulary and the row files of a corpus to `folder`.

    Continues the work of an earlier run that was killed, unless the recipe or a file of the sources has changed.

    Raises:
      UserError: a text is damaged, a source has no text, there is too little text (see `check_rows`), or the folder
        cannot be written.
    """
    names = sorted(set(config.data.sources))
    shards = [(number, shard) for number, name in enumerate(names) for shard in sources.shards(name)]
    files = _file_status(shard for _, shard in shards)
    size = sum(shard.size for _, shard in shards)
    bits = min(_MAX_BITS, max(0, (size // _BUCKET_BYTES).bit_length()))
    job = Job(folder, len(names), bits, config.data.validation_fraction)
    _remove_other_plan(folder, {"recipe": recipe, "shards": shards, "files": files, "bits": bits})
    number = config.data.workers or min(len(os.sched_getaffinity(0)), max(1, size // _WORKER_BYTES))
    with Workers(number) as workers:
        if number > 1:  # TFDS takes seconds to import, in which this process would otherwise wait for the workers
            threading.Thread(target=importlib.import_module, args=("tensorflow_datasets",)).start()
        if not all(job.counts(bucket).exists() for bucket in range(1 << bits)):
            num_read = _read_sources(job, workers, names, shards)
            _write_vocabulary(job, workers, config)
            _tokenize(job, workers, num_read)
        shutil.rmtree(job.runs, ignore_errors=True)
        counts = functools.reduce(statistics.add, (statistics.load(job.counts(bucket)) for bucket in range(1 << bits)))
        check_rows(config, counts)
        return Written(counts, _write_files(job, workers, config.model.length))


def remove_unfinished(folder: Path) -> None:
    """Removes the files from which a later run would continue."""
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)


def _is_local(shard: Shard) -> bool:
    return bool(shard.paths) and all(map(os.path.exists, shard.paths))


def _file_status(shards: Iterator[Shard]) -> dict[str, tuple[int, int]]:
    """Returns the size and the time of modification of every file on a disk, by its path."""
    found = {}
    for path in sorted({path for shard in shards if _is_local(shard) for path in shard.paths}):
        status = os.stat(path)
        found[path] = (status.st_size, status.st_mtime_ns)
    return found


def _remove_other_plan(folder: Path, plan: dict[str, Any]) -> None:
    """Removes the files of an earlier run, unless it had the same plan; then makes the folders of this run."""
    file, content = folder / UNFINISHED / "plan.json", json.dumps(plan, indent=1)
    if not file.exists() or file.read_text() != content:
        remove_contents(epath.Path(folder))
        for name in ("shards", "runs", "buckets"):
            (folder / UNFINISHED / name).mkdir(parents=True)
        _write_whole(file, content.encode())


def _read_sources(job: Job, workers: Workers, names: list[str], shards: list[tuple[int, Shard]]) -> int:
    """Writes the documents of all shards to runs; returns their number."""
    read, runs_of_shards = Counter[str](), set[Path]()
    missing = []
    for number, (source, shard) in enumerate(shards):
        content = json.loads(job.shard(number).read_text()) if job.shard(number).exists() else None
        found = {job.runs / name: size for name, size in content["runs"].items()} if content else {}
        if content and all(path.exists() and path.stat().st_size == size for path, size in found.items()):
            read[shard.source] += content["documents"]
            runs_of_shards |= found.keys()
        else:
            missing.append((job, number, source, shard))
    for path in job.runs.iterdir():
        if path not in runs_of_shards:
            path.unlink()
    with _progress("documents read") as report:
        report(read.total())
        for name, count in workers.map(_read_shard, missing):
            read[name] += count
            report(count)
    for name in names:
        if not read[name]:
            raise sources.no_documents(name)
    return read.total()


def _read_shard(job: Job, number: int, source: int, shard: Shard) -> tuple[str, int]:
    """Writes the documents of a shard to runs; returns the name of its source, and their number."""
    count, sizes, path = 0, {}, job.runs / f"{source:05d}-{number:06d}"
    with add_path_to_os_errors(path):
        for run, documents in runs.write_runs(sources.read(shard), job.bits, path):
            sizes[run.name] = run.stat().st_size
            count += documents
    _write_whole(job.shard(number), json.dumps({"documents": count, "runs": sizes}).encode())
    return shard.source, count


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


def _write_vocabulary(job: Job, workers: Workers, config: Config) -> None:
    if not tokenizer.is_written(job.folder):
        counts, vocab, lowercase = Counter[str](), config.data.vocab, config.data.lowercase
        if training := tokenizer.find_training(vocab, lowercase):
            calls = ((job, bucket, training) for bucket in range(1 << job.bits))
            for counts_of_bucket in workers.map(_count_words, calls):
                counts.update(counts_of_bucket)
        tokenizer.write_vocabulary(vocab, counts, config.model.vocab_size, job.folder, lowercase=lowercase)


def _count_words(job: Job, bucket: int, training: Training) -> Counter[str]:
    texts = buckets.decode(_read_bucket(job, bucket).texts)
    return tokenizer.count_words((piece for text in texts for piece in split_text(text)), training)


def _tokenize(job: Job, workers: Workers, num_read: int) -> None:
    missing = [(job, bucket) for bucket in range(1 << job.bits) if not job.counts(bucket).exists()]
    with _progress("documents", num_read) as report:
        report(num_read * ((1 << job.bits) - len(missing)) >> job.bits)
        for count in workers.map(_tokenize_bucket, missing):
            report(count)


def _tokenize_bucket(job: Job, bucket: int) -> int:
    """Writes the sequences of a bucket and its statistics; returns the number of documents that it was read from."""
    text_tokenizer, encoder = _load_tokenizer(job.folder)
    documents, dtype = _read_bucket(job, bucket), rows.row_dtype(len(text_tokenizer.tokens))
    sequences, counts = buckets.tokenize(documents, text_tokenizer, encoder, dtype, job.validation_fraction)
    for split, sequence in zip(SPLITS, sequences, strict=True):
        _write_whole(job.sequence(split, bucket), sequence.tobytes())
    buffer = io.BytesIO()
    np.savez(buffer, **vars(counts))
    _write_whole(job.counts(bucket), buffer.getvalue())
    return len(documents.texts) + int(documents.duplicates.sum())


def _load_tokenizer(folder: Path) -> tuple[TextTokenizer, Tokenizer]:
    """Returns the tokenizer in a folder, and its object of the library, for texts of a corpus."""
    files = [folder / name for name in (VOCAB, tokenizer.TOKENIZER)]
    return _load_tokenizer_once(folder, max(path.stat().st_mtime_ns for path in files if path.exists()))


@functools.lru_cache(maxsize=1)
def _load_tokenizer_once(folder: Path, _: int) -> tuple[TextTokenizer, Tokenizer]:
    text_tokenizer = tokenizer.read(folder)
    return text_tokenizer, text_tokenizer.build(parse_special=False)


def _write_files(job: Job, workers: Workers, length: int) -> dict[str, list[RowFile]]:
    """Writes the row files; returns them in order, by split."""
    form = row_format(_load_tokenizer(job.folder)[0], length)
    calls = []
    for split in SPLITS:
        paths = [job.sequence(split, bucket) for bucket in range(1 << job.bits)]
        sizes = [path.stat().st_size // form.dtype.itemsize for path in paths]
        for number, slices in enumerate(packing.plan_files(sizes, length, form.rows_per_file)):
            calls.append((job, split, number, slices, form))
    files: dict[str, dict[int, RowFile]] = {split: {} for split in SPLITS}
    for split, number, file in workers.map(_write_file, calls):
        files[split][number] = file
    return {split: [by_number[number] for number in sorted(by_number)] for split, by_number in files.items()}


def _write_file(job: Job, split: str, number: int, slices: list[Slice], form: RowFormat) -> tuple[str, int, RowFile]:
    parts = [
        np.fromfile(job.sequence(split, bucket), form.dtype, end - start, offset=start * form.dtype.itemsize)
        for bucket, start, end in slices
    ]
    path = job.folder / rows.file_name(split, number)
    return split, number, write_row_file(path, np.concatenate(parts), form)


def _write_whole(path: Path, content: bytes) -> None:
    """Writes a file so that a kill at any moment leaves the whole file or none."""
    new = path.with_name(f"{path.name}.new")
    with add_path_to_os_errors(path):
        new.write_bytes(content)
    new.replace(path)


@contextlib.contextmanager
def _progress(unit: str, items: int | None = None) -> Iterator[Any]:
    """Yields a function that adds a number of documents to the progress."""
    start, done = time.monotonic(), 0
    with Progress(unit, items=items, interval=_PROGRESS_SECONDS) as progress:

        def report(count: int) -> None:
            nonlocal done
            done += count
            speed = f"{done / max(time.monotonic() - start, 1e-9):,.0f} documents/s"
            progress.finish(count)
            progress.show(speed, f"{progress.status}, {speed}")

        yield report
