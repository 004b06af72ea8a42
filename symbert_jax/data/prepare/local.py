"""The local engine: `prepare` on the cores of one machine, in memory that does not grow with the corpus.

1. Workers read the shards of the sources and write the documents, sorted by key, to runs.
2. To train a vocabulary, workers count the words in each bucket.
3. Workers read a bucket from all runs, drop duplicates, tokenize it, and write its sequences of token ids.
4. Workers pack whole documents into rows, if the config asks for it.
5. Workers cut the sequences into rows and write the row files.

Every file is written whole or not at all, and a later run continues with the files that are missing.
"""

import contextlib
import importlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath

from symbert_jax.config import Config
from symbert_jax.data import sources, tokenizer
from symbert_jax.data.manifest import SPLITS
from symbert_jax.data.prepare import best_fit, local_tasks, packing, statistics
from symbert_jax.data.prepare.local_tasks import UNFINISHED, Job
from symbert_jax.data.prepare.row_files import RowFile, RowFormat, row_format
from symbert_jax.data.prepare.workers import Workers
from symbert_jax.data.prepare.written import Written, check_rows
from symbert_jax.data.sources import Shard
from symbert_jax.progress import Progress
from symbert_jax.storage import remove_contents

_BUCKET_BYTES = 1 << 20  # of the sources on the disk for each bucket
_MAX_BITS = 12  # so there are at most 4096 buckets
_WORKER_BYTES = 1 << 23  # of the sources on the disk for each worker: starting one takes a second
_PROGRESS_SECONDS = 30  # between progress lines if the output is not a terminal


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
        if not all(job.counts(bucket).exists() for bucket in range(1 << bits)):
            num_read = _read_sources(job, workers, names, shards)
            _write_vocabulary(job, workers, config)
            _tokenize(job, workers, num_read)
        shutil.rmtree(job.runs, ignore_errors=True)
        counts = statistics.add(statistics.load(job.counts(bucket)) for bucket in range(1 << bits))
        check_rows(config, counts)
        form = row_format(tokenizer.read(folder), config.model.length)
        if config.data.packing == "best_fit":
            parts = _pack(job, workers, form)
        else:
            parts = {split: job.sequences(split) for split in SPLITS}
        return Written(counts, _write_files(job, workers, form, parts))


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
        for name in ("shards", "runs", "buckets", "windows"):
            (folder / UNFINISHED / name).mkdir(parents=True)
        local_tasks.write_whole(file, content.encode())


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
        for name, count in workers.map(local_tasks.read_shard, missing):
            read[name] += count
            report(count)
    for name in names:
        if not read[name]:
            raise sources.no_documents(name)
    return read.total()


def _write_vocabulary(job: Job, workers: Workers, config: Config) -> None:
    if not tokenizer.is_written(job.folder):
        counts, vocab, lowercase = Counter[str](), config.data.vocab, config.data.lowercase
        if training := tokenizer.find_training(vocab, lowercase):
            calls = [(job, bucket, training) for bucket in range(1 << job.bits)]
            for counts_of_bucket in workers.map(local_tasks.count_words, calls):
                counts.update(counts_of_bucket)
        tokenizer.write_vocabulary(vocab, counts, config.model.vocab_size, job.folder, lowercase=lowercase)


def _tokenize(job: Job, workers: Workers, num_read: int) -> None:
    missing = [(job, bucket) for bucket in range(1 << job.bits) if not job.counts(bucket).exists()]
    with _progress("documents", num_read) as report:
        report(num_read * ((1 << job.bits) - len(missing)) >> job.bits)
        counts = workers.map(local_tasks.tokenize_bucket, missing)
        # TFDS, which this process needs afterwards, takes seconds to import, in which the workers have begun.
        importlib.import_module("tensorflow_datasets")
        for count in counts:
            report(count)


def _pack(job: Job, workers: Workers, form: RowFormat) -> dict[str, list[Path]]:
    """Packs the documents of all buckets into rows; returns the files of their tokens in order, by split."""
    packed = {}
    for split in SPLITS:
        number = best_fit.count_windows(sum(local_tasks.token_counts(job.sequences(split), form)))
        for _ in workers.map(local_tasks.pack_window, ((job, split, window, form) for window in range(number))):
            pass
        packed[split] = [job.window(split, window) for window in range(number)]
    return packed


def _write_files(job: Job, workers: Workers, form: RowFormat, parts: dict[str, list[Path]]) -> dict[str, list[RowFile]]:
    """Writes the row files; returns them in order, by split.

    parts: for each split, the files of the tokens of its rows.
    """
    calls = []
    for split, paths in parts.items():
        plan = packing.plan_files(local_tasks.token_counts(paths, form), form.length, form.rows_per_file)
        calls += [(job, split, number, paths, slices, form) for number, slices in enumerate(plan)]
    files: dict[str, dict[int, RowFile]] = {split: {} for split in SPLITS}
    for split, number, file in workers.map(local_tasks.write_file, calls):
        files[split][number] = file
    return {split: [by_number[number] for number in sorted(by_number)] for split, by_number in files.items()}


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
