"""The `prepare` command turns documents into rows of token ids, which training reads by random access.

The stream of a split is document, [SEP], document, [SEP], …; every T - 2 tokens of it become a row [CLS] … [SEP], and a
shorter rest at its end is dropped. No text can forge a [SEP], so the rows show where each document ends.
"""

import contextlib
import importlib.metadata
import itertools
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

import symbert_jax
from symbert_jax.config import Config
from symbert_jax.data import rows, sources, tokenizer
from symbert_jax.data.documents import distinct_documents
from symbert_jax.data.encoding import encode
from symbert_jax.data.manifest import SPLITS, check_files, is_finished, read_manifest, write_manifest
from symbert_jax.errors import UserError
from symbert_jax.progress import Progress
from symbert_jax.storage import absolute, is_bucket, new_folder

_PROGRESS_SECONDS = 30  # between progress lines if the output is not a terminal


def prepare(config: Config) -> None:
    """Writes the corpus of `config.data.sources` to `config.data.dir`; does nothing if it is already there.

    All files are written to `DIR.incomplete`, which is renamed to `DIR` at the end (see `storage.new_folder`).

    Raises:
      UserError: a source, the vocabulary or the folder cannot be used; the folder holds other files, or a corpus that
        is damaged or has another recipe (see `_recipe`); another run writes to it; or there is too little text for a
        row.
    """
    if is_bucket(config.data.dir):
        hint = "prepare the corpus in a local folder and copy it to the bucket: training can read it there"
        raise UserError("data.dir", config.data.dir, "a local folder", hint)
    target, recipe = Path(absolute(config.data.dir, "data.dir")), _recipe(config)
    if _is_prepared(recipe, target):
        return
    is_taken = os.path.lexists(target) and (not target.is_dir() or any(target.iterdir()))
    if is_taken and not is_finished(target):  # another run may have finished it in the meantime
        raise UserError("data.dir", f"{target}, which is not a corpus", "a path where nothing exists yet")
    if os.fspath(target) != os.fsencode(target).decode(errors="replace"):
        raise UserError("data.dir", f"{target}", "a path in UTF-8, which ArrayRecord requires")
    if target == Path.cwd() or target.is_mount():
        kind = "a mount point" if target.is_mount() else "the current folder"
        raise UserError("data.dir", f"{target}, {kind}", "a folder that can be renamed", "name a folder inside of it")
    if not config.data.sources:
        raise UserError("data.sources", "none", "at least one, such as jsonl:DIR/*.jsonl.gz")
    for source in config.data.sources:
        sources.documents(source)  # raises if the source is missing: now, not hours later
    with _exit_on_sigterm(), new_folder(epath.Path(target), "data.dir", remove_failed=True) as work:
        if _is_prepared(recipe, target):  # another run finished it before this one got the lock
            return
        summary = _write_corpus(config, recipe, Path(work))
    print(f"{target}: {summary}")
    if advice := read_manifest(target).advice():
        print(f"warning: {advice}", file=sys.stderr)


def _recipe(config: Config) -> dict[str, Any]:
    """Returns the fields that determine the rows of a corpus, apart from the content of its sources."""
    match config.data.vocab:
        case "train":
            vocab = f"train {config.model.vocab_size}"
        case name if name.startswith("hf:"):
            vocab = name
        case name:
            vocab = f"sha256 {tokenizer.read(tokenizer.find(name)).fingerprint()}"
    return {
        "sources": list(config.data.sources),
        "vocab": vocab,
        "length": config.model.length,
        "validation_fraction": config.data.validation_fraction,
    }


def _is_prepared(recipe: dict[str, Any], folder: Path) -> bool:
    """Returns whether `folder` holds a finished corpus of this recipe; if it does, tells the user.

    Raises:
      UserError: the corpus is damaged or has another recipe.
    """
    if not is_finished(folder):
        return False
    content = read_manifest(folder).content
    for name, value in recipe.items():
        if content.get(name) != value:
            field = "model.length" if name == "length" else f"data.{name}"
            found = f"{value} for {folder}, which is already prepared with another value"
            raise UserError(field, found, str(content.get(name)), "remove that folder, or name another data.dir")
    check_files(folder, read_rows=False)
    print(f"{folder} is already prepared")
    return True


@contextlib.contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Makes SIGTERM raise `SystemExit`: workers end, unfinished files are removed. A second SIGTERM kills."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread can set signal handlers
        yield
        return

    def raise_exit(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, raise_exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _write_corpus(config: Config, recipe: dict[str, Any], work: Path) -> str:
    """Writes all files of the corpus to the folder `work`; returns a summary for the user."""
    start = time.monotonic()
    texts = itertools.chain.from_iterable(map(sources.documents, config.data.sources))
    tokenizer.write_vocabulary(config.data.vocab, texts, config.model.vocab_size, work)
    counts = _write_rows(config, work)
    seconds = time.monotonic() - start
    versions = {name: importlib.metadata.version(name) for name in ("tokenizers", "tensorflow-datasets")}
    facts = {
        **recipe,
        **counts,
        "seconds": round(seconds, 1),
        "versions": {"symbert_jax": symbert_jax.__version__, **versions},
    }
    write_manifest(work, facts)
    train, validation = (counts["splits"][split] for split in SPLITS)
    documents, tokens, unknown = (train[name] + validation[name] for name in ("documents", "tokens", "unk_tokens"))
    return (
        f"{train['rows']:,} rows of {config.model.length} tokens to train "
        f"and {validation['rows']:,} to validate from {documents:,} documents, "
        f"{sum(counts['duplicates'].values()):,} duplicates dropped, "
        f"{unknown / tokens:.2%} of the tokens [UNK], in {seconds:.1f} s "
        f"({documents / seconds:,.0f} documents/s, {tokens / seconds:,.0f} tokens/s)"
    )


def _write_rows(config: Config, folder: Path) -> dict[str, Any]:
    """Tokenises all documents with the tokenizer in `folder` and writes the dataset of their rows there.

    Returns:
      Counts for the manifest. The tokens of a split are counted without [CLS] and [SEP].

    Raises:
      UserError: a text is damaged, or there is too little text for a row of training or, if the config asks for a
        validation split, for a row of validation.
    """
    text_tokenizer = tokenizer.read(folder)
    cls, sep, unk = text_tokenizer.cls_id, text_tokenizer.sep_id, text_tokenizer.unk_id
    frame, unmaskable = (cls, sep), sep if unk is None else unk
    writers = {split: rows.Writer(folder, split, config.model.length, *frame, unmaskable) for split in SPLITS}
    documents, tokens, unknown = Counter[str](), Counter[str](), Counter[str]()  # numbers, by split
    used, duplicates = Counter[str](), Counter[str]()  # numbers of documents, by source
    distinct = distinct_documents(config.data, folder / "digests.sqlite", duplicates)
    start = time.monotonic()
    with Progress("documents", interval=_PROGRESS_SECONDS) as progress:
        for batch in encode(text_tokenizer, distinct):
            used.update(document.source for document, _ in batch)
            for split, writer in writers.items():
                if ids_of_split := [ids for document, ids in batch if document.split == split]:
                    stream = np.concatenate(ids_of_split)
                    writer.add(stream)
                    unknown[split] += 0 if unk is None else int(np.count_nonzero(stream == unk))
                    documents[split] += len(ids_of_split)
                    tokens[split] += sum(len(ids) - 1 for ids in ids_of_split)
            progress.finish(len(batch))
            seconds = max(time.monotonic() - start, 1e-9)
            speed = f"{documents.total() / seconds:,.0f} documents/s, {tokens.total() / seconds:,.0f} tokens/s"
            progress.show(speed, f"{progress.status}, {speed}")
    dropped = {split: writer.close() for split, writer in writers.items()}
    if not writers["train"].row_count:
        found = f"{tokens['train']} tokens of training text"
        raise UserError("data.sources", found, f"enough for a row of model.length={config.model.length}")
    if config.data.validation_fraction and not writers["validation"].row_count:
        chosen = f"{documents['validation']} of {documents.total()} documents"
        found = f"{config.data.validation_fraction}, which chose {chosen}"
        raise UserError("data.validation_fraction", found, "enough for a row")
    rows.write_info(folder, config.model.length, [writer.info() for writer in writers.values() if writer.row_count])
    return {
        "documents": {source: used[source] for source in config.data.sources},
        "duplicates": {source: duplicates[source] for source in config.data.sources},
        "splits": {
            split: {
                "documents": documents[split],
                "rows": writer.row_count,
                "tokens": tokens[split],
                "tail_tokens_dropped": dropped[split],
                "unk_tokens": unknown[split],
                "unk_share": round(unknown[split] / max(tokens[split], 1), 4),
                "most_maskable": writer.most_maskable,
                "fewest_maskable": writer.fewest_maskable,
            }
            for split, writer in writers.items()
        },
    }
