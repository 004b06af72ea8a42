"""The engine for a cluster: `prepare` as pipelines of Apache Beam.

1. To train a vocabulary, one pipeline reads the sources, groups documents into buckets by key, drops duplicates and
   counts words.
2. A second one does the same, but tokenizes the buckets and writes their sequences of token ids.
3. A third one packs whole documents into rows, if the config asks for it.
4. The last one cuts the sequences into rows and writes the row files.

The workers share the folder of the corpus. Pipelines have no other output, no side input and no state, so every runner
can run them. The bytes of a file depend neither on the runner, nor on the order in which it hands out elements, nor on
how often it repeats work, because each file is a function of a set of documents.
"""

import json
import re
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

import apache_beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineState
from etils import epath

from symbert_jax.config import Config
from symbert_jax.data import sources, tokenizer
from symbert_jax.data.manifest import SPLITS
from symbert_jax.data.prepare import beam_workers as workers
from symbert_jax.data.prepare import best_fit, packing, statistics
from symbert_jax.data.prepare.beam_workers import Copy, Job
from symbert_jax.data.prepare.packing import Slice
from symbert_jax.data.prepare.row_files import RowFile, RowFormat, row_format
from symbert_jax.data.prepare.shared_files import read_all
from symbert_jax.data.prepare.statistics import Statistics
from symbert_jax.data.prepare.written import Written, check_rows
from symbert_jax.data.sources import Shard
from symbert_jax.data.tokenizer import Training
from symbert_jax.errors import UserError
from symbert_jax.storage import remove_contents

_BUCKET_BYTES = 1 << 22  # of the sources on the disk for each bucket
_MAX_BITS = 14  # so there are at most 16,384 buckets
# An error of the user in the message of another exception, which may hold the traceback of a worker.
_USER_ERROR = re.compile(
    r"\bUserError: (?P<what>[^:\n]+): found (?P<found>.*), wanted (?P<wanted>.*?)(?: \[while running .*)?$",
    re.MULTILINE,
)

# The split of a row file, its number, and the parts of files of a kind, sequences or windows, that it holds.
_Call = tuple[str, int, str, list[Slice]]


def write_rows(config: Config, options: PipelineOptions, folder: epath.Path) -> Written:
    """Writes the vocabulary and the row files of a corpus to `folder`, which all workers share, after emptying it.

    Raises:
      UserError: a text is damaged, a source has no text, there is too little text (see `check_rows`), or a pipeline
        fails.
    """
    names = sorted(set(config.data.sources))
    shards = [(number, shard) for number, name in enumerate(names) for shard in sources.shards(name)]
    bits = min(_MAX_BITS, (sum(shard.size for _, shard in shards) // _BUCKET_BYTES).bit_length())
    job = Job(str(folder), len(names), bits, config.data.validation_fraction, run=uuid.uuid4().hex)
    remove_contents(folder)
    for kind in ("attempts", "words", "sequences", "counts", "windows", "files"):
        job.unfinished(kind).mkdir(parents=True, exist_ok=True)
    words, vocab, lowercase = Counter[str](), config.data.vocab, config.data.lowercase
    if training := tokenizer.find_training(vocab, lowercase):
        message = f"counting words in {len(shards)} shards"
        _run(options, message, lambda start: _count_words(start, shards, job, training))
        for content in read_all(sorted(job.unfinished("words").iterdir())):
            words.update(json.loads(content))
    tokenizer.write_vocabulary(vocab, words, config.model.vocab_size, folder, lowercase=lowercase)
    _run(options, f"tokenizing {len(shards)} shards", lambda start: _tokenize(start, shards, job))
    counts = _read_counts(job, names)
    total = statistics.add(counts.values())
    check_rows(config, total)
    form = row_format(tokenizer.read(folder), config.model.length)
    kind, sizes = "sequences", _sequence_sizes(job, counts)
    if config.data.packing == "best_fit":
        windows = [(split, n) for split in SPLITS for n in range(best_fit.count_windows(sum(sizes[split])))]
        _run(options, f"packing {len(windows)} windows", lambda start: _pack(start, windows, sizes, form, job))
        kind, sizes = "windows", _window_sizes(job, windows, form)
    calls = [
        (split, number, kind, slices)
        for split in SPLITS
        for number, slices in enumerate(packing.plan_files(sizes[split], form.length, form.rows_per_file))
    ]
    _run(options, f"writing {len(calls)} row files", lambda start: _write_files(start, calls, form, job))
    return Written(total, _read_descriptions(job, calls))


def _run(options: PipelineOptions, description: str, build: Callable[[Any], Any]) -> None:
    """Runs the pipeline that `build` adds to its argument.

    Raises:
      UserError: a worker raised it, or the pipeline failed.
    """
    print(f"beam: {description}", flush=True)
    try:
        pipeline = apache_beam.Pipeline(options=options)
        build(pipeline)
        result = pipeline.run()
        state = result.wait_until_finish()
        if client := getattr(result, "client", None):  # the runner for Dask leaves it open
            client.close()
    except Exception as error:  # each runner has its own types; the message may hold the traceback of a worker
        if match := _USER_ERROR.search(f"{type(error).__name__}: {error}"):
            raise UserError(match["what"], match["found"], match["wanted"]) from None
        raise UserError("--beam", f"{type(error).__name__}: {error}", "a pipeline that succeeds") from error
    if state != PipelineState.DONE:
        raise UserError("--beam", f"a pipeline that ended as {state}", "one that succeeds", "see the log of the runner")


def _read_buckets(start: Any, shards: list[tuple[int, Shard]], job: Job) -> Any:
    """Returns the collection of all buckets that have documents, of type `CopiesOfBucket`."""
    return (
        start
        | "shards" >> apache_beam.Create(shards)
        | "spread" >> apache_beam.Reshuffle()
        | "read" >> apache_beam.FlatMap(workers.read_shard, job.bits).with_output_types(tuple[int, Copy])
        | "group" >> apache_beam.GroupByKey()
    )


def _count_words(start: Any, shards: list[tuple[int, Shard]], job: Job, training: Training) -> Any:
    return (
        _read_buckets(start, shards, job)
        | "count"
        >> apache_beam.FlatMap(workers.count_words, training, job).with_output_types(tuple[int, dict[str, int]])
        | "add" >> apache_beam.GroupByKey()
        | "write" >> apache_beam.Map(workers.write_words, job)
    )


def _tokenize(start: Any, shards: list[tuple[int, Shard]], job: Job) -> Any:
    return _read_buckets(start, shards, job) | "tokenize" >> apache_beam.Map(workers.tokenize_bucket, job)


def _write_files(start: Any, calls: list[_Call], form: Any, job: Job) -> Any:
    return (
        start
        | "files" >> apache_beam.Create(calls)
        | "spread" >> apache_beam.Reshuffle()
        | "write" >> apache_beam.Map(workers.write_row_file_of, form, job)
    )


def _read_counts(job: Job, names: list[str]) -> dict[int, Statistics]:
    """Returns the counts of each bucket that has documents; raises `UserError` if a source has none."""
    paths = sorted(job.unfinished("counts").iterdir())
    num_read, counts = np.zeros(len(names), np.int64), dict[int, Statistics]()
    for path, content in zip(paths, read_all(paths), strict=True):
        num_read_of_bucket, counts[int(path.stem)] = workers.parse_counts(content)
        num_read += num_read_of_bucket
    for name, number in zip(names, num_read, strict=True):
        if not number:
            raise sources.no_documents(name)
    return counts


def _sequence_sizes(job: Job, counts: dict[int, Statistics]) -> dict[str, list[int]]:
    """Returns, by split, the number of tokens in the sequence of each bucket."""
    sizes = {split: [0] * (1 << job.bits) for split in SPLITS}
    for i, split in enumerate(SPLITS):
        for bucket, counts_of_bucket in counts.items():
            # Each document has a [SEP].
            sizes[split][bucket] = int(counts_of_bucket.tokens[i].sum() + counts_of_bucket.documents[i].sum())
    return sizes


def _pack(start: Any, windows: list[tuple[str, int]], sizes: dict[str, list[int]], form: RowFormat, job: Job) -> Any:
    return (
        start
        | "windows" >> apache_beam.Create(windows)
        | "spread" >> apache_beam.Reshuffle()
        | "pack" >> apache_beam.Map(workers.pack_window, sizes, form, job)
    )


def _window_sizes(job: Job, windows: list[tuple[str, int]], form: RowFormat) -> dict[str, list[int]]:
    """Returns, by split, the number of tokens in each packed window."""
    sizes: dict[str, list[int]] = {split: [] for split in SPLITS}
    for split, number in windows:
        sizes[split].append(job.tokens("windows", split, number).stat().length // form.dtype.itemsize)
    return sizes


def _read_descriptions(job: Job, calls: list[_Call]) -> dict[str, list[RowFile]]:
    contents = read_all(workers.description(job, split, number) for split, number, *_ in calls)
    files: dict[str, list[RowFile]] = {split: [] for split in SPLITS}
    for (split, *_), content in zip(calls, contents, strict=True):
        files[split].append(workers.parse_description(content))
    return files
