"""`prepare`: documents become rows of token ids that training reads by random access.

The stream of a split is document, [SEP], document, [SEP], …; every T - 2 tokens of it become a row
[CLS] … [SEP]. No text can forge a [SEP], so the rows give the documents back.
"""

import contextlib
import hashlib
import importlib.metadata
import itertools
import os
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from etils import epath

import symbert_jax
from symbert_jax.config import Config
from symbert_jax.data import rows, sources, tokenizer, vocabulary
from symbert_jax.errors import UserError
from symbert_jax.progress import Progress
from symbert_jax.storage import absolute, is_bucket, new_folder, sha256

_BATCH = 1 << 20  # characters tokenised together, by all cores
_PIECE = 1 << 12  # characters of a long document that one core tokenises at a time
_LINE_INTERVAL = 30  # seconds between progress lines where there is no terminal


class Document(NamedTuple):
    text: str
    source: str
    split: str


Encoded = list[tuple[Document, np.ndarray]]  # ids and a closing [SEP], uint16[any]


def prepare(config: Config) -> None:
    """Writes the corpus of `config.data.sources` to `config.data.dir`, unless it is there already.

    Everything is written to `DIR.incomplete`, which becomes `DIR` when it is whole (see `storage.new_folder`).

    Raises:
      UserError: a source, the vocabulary or the folder cannot be used, another run writes the folder, or there is too
        little text for a row.
    """
    if is_bucket(config.data.dir):
        hint = "prepare into one and copy it to the bucket; training reads it there"
        raise UserError("data.dir", config.data.dir, "a local folder", hint)
    target, recipe = Path(absolute(config.data.dir, "data.dir")), _recipe(config)
    if _is_prepared(recipe, target):
        return
    is_taken = os.path.lexists(target) and (not target.is_dir() or any(target.iterdir()))
    if is_taken and not rows.is_finished(target):  # another run may have finished it since
        raise UserError("data.dir", f"{target}, which is no corpus", "a path where nothing is yet")
    if os.fspath(target) != os.fsencode(target).decode(errors="replace"):
        raise UserError("data.dir", f"{target}", "a path in UTF-8, as ArrayRecord needs it")
    if target == Path.cwd() or target.is_mount():
        kind = "a mount point" if target.is_mount() else "the current folder"
        raise UserError("data.dir", f"{target}, {kind}", "a folder that can be renamed", "name one inside of it")
    if not config.data.sources:
        raise UserError("data.sources", "none", "at least one, such as jsonl:DIR/*.jsonl.gz")
    for source in config.data.sources:
        sources.documents(source)  # a missing one fails now, not after hours spent on the others
    with _exit_on_sigterm(), new_folder(epath.Path(target), "data.dir", remove_failed=True) as work:
        if _is_prepared(recipe, target):  # since the lock, by another run
            return
        summary = _prepare(config, recipe, Path(work))
    print(f"{target}: {summary}")
    if advice := rows.read_manifest(target).advice():
        print(f"warning: {UserError(*advice)}", file=sys.stderr)


def _prepare(config: Config, recipe: dict[str, Any], work: Path) -> str:
    """Writes the corpus to the folder `work`; returns a summary of it for people."""
    start = time.monotonic()
    texts = itertools.chain.from_iterable(map(sources.documents, config.data.sources))
    tokenizer.write_vocabulary(config.data.vocab, texts, config.model.vocab_size, work / rows.VOCAB)
    counts = write(config, work)
    seconds = time.monotonic() - start
    versions = {name: importlib.metadata.version(name) for name in ("tokenizers", "tensorflow-datasets")}
    facts = {
        **recipe,
        **counts,
        "vocab_sha256": sha256(work / rows.VOCAB),
        "seconds": round(seconds, 1),
        "versions": {"symbert_jax": symbert_jax.__version__, **versions},
    }
    rows.write_manifest(work, facts)
    train, validation = (counts["splits"][split] for split in rows.SPLITS)
    documents, tokens, unknown = (train[name] + validation[name] for name in ("documents", "tokens", "unk_tokens"))
    return (
        f"{train['rows']:,} rows of {config.model.length} tokens to train "
        f"and {validation['rows']:,} to validate from {documents:,} documents, "
        f"{sum(counts['duplicates'].values()):,} duplicates dropped, "
        f"{unknown / tokens:.2%} of the tokens [UNK], in {seconds:.1f} s "
        f"({documents / seconds:,.0f} documents/s, {tokens / seconds:,.0f} tokens/s)"
    )


def _is_prepared(recipe: dict[str, Any], folder: Path) -> bool:
    """Returns whether `folder` holds a finished corpus; raises `UserError` if it is damaged or has another recipe."""
    if not rows.is_finished(folder):
        return False
    content = rows.read_manifest(folder).content
    for name, value in recipe.items():
        if content.get(name) != value:
            field = "model.length" if name == "length" else f"data.{name}"
            found = f"{value} for {folder}, which is already prepared with another"
            raise UserError(field, found, str(content.get(name)), "remove that folder, or name another data.dir")
    rows.verify(folder, hashes=False)
    print(f"{folder} is already prepared")
    return True


@contextlib.contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Makes SIGTERM raise `SystemExit`, so that worker processes end and files are removed. A second one kills."""
    if threading.current_thread() is not threading.main_thread():  # where no signal arrives
        yield
        return

    def exit_(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, exit_)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def write(config: Config, folder: Path) -> dict[str, Any]:
    """Tokenises all documents with `folder`/vocab.txt and writes the dataset of their rows to `folder`.

    Returns:
      Counts for the manifest. The tokens of a split are those of its texts, without special ones.

    Raises:
      UserError: a text is damaged, or there is too little text for one row of each split.
    """
    encoder = tokenizer.load(folder / rows.VOCAB, parse_special=False)
    special = tokenizer.special_ids(encoder)
    cls, sep, unk = (special[token] for token in (vocabulary.CLS, vocabulary.SEP, vocabulary.UNK))
    writers = {split: rows.Writer(folder, split, config.model.length, cls, sep, unk) for split in rows.SPLITS}
    documents, tokens, unknown = Counter[str](), Counter[str](), Counter[str]()  # of a split
    used, duplicates = Counter[str](), Counter[str]()  # documents of a source
    fresh = _without_duplicates(config, folder / "digests.sqlite", duplicates)
    start = time.monotonic()
    with Progress("documents", interval=_LINE_INTERVAL) as progress:
        for batch in _ahead(lambda batch: _encode(encoder, batch, sep), batches(fresh)):
            used.update(document.source for document, _ in batch)
            for split, writer in writers.items():
                if own := [ids for document, ids in batch if document.split == split]:
                    stream = np.concatenate(own)
                    writer.add(stream)
                    unknown[split] += int(np.count_nonzero(stream == unk))
                    documents[split] += len(own)
                    tokens[split] += sum(len(ids) - 1 for ids in own)
            progress.finish(len(batch))
            seconds = max(time.monotonic() - start, 1e-9)
            speed = f"{documents.total() / seconds:,.0f} documents/s, {tokens.total() / seconds:,.0f} tokens/s"
            progress.show(speed, f"{progress.standing}, {speed}")
    dropped = {split: writer.close() for split, writer in writers.items()}
    if not writers["train"].rows:
        found = f"{tokens['train']} tokens of training text"
        raise UserError("data.sources", found, f"enough for a row of model.length={config.model.length}")
    if config.data.validation_fraction and not writers["validation"].rows:
        chosen = f"{documents['validation']} of {documents.total()} documents"
        found = f"{config.data.validation_fraction}, which chose {chosen}"
        raise UserError("data.validation_fraction", found, "enough for a row")
    rows.write_info(folder, config.model.length, [writer.info() for writer in writers.values() if writer.rows])
    return {
        "documents": {source: used[source] for source in config.data.sources},
        "duplicates": {source: duplicates[source] for source in config.data.sources},
        "splits": {
            split: {
                "documents": documents[split],
                "rows": writer.rows,
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


def _without_duplicates(config: Config, database: Path, duplicates: Counter[str]) -> Iterator[Document]:
    """All documents that occur for the first time; counts the others, for each source, in `duplicates`.

    The digests lie on disk, so that memory does not grow with the corpus.
    """
    with _database_errors(database), contextlib.closing(sqlite3.connect(database, isolation_level=None)) as seen:
        seen.execute("PRAGMA journal_mode = OFF")
        seen.execute("PRAGMA synchronous = OFF")
        seen.execute("CREATE TABLE digests (digest BLOB PRIMARY KEY) WITHOUT ROWID")
        seen.execute("BEGIN")
        for source in config.data.sources:
            for text in sources.documents(source):
                digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
                if seen.execute("INSERT OR IGNORE INTO digests VALUES (?)", (digest,)).rowcount:
                    chosen = int.from_bytes(digest[:8]) < config.data.validation_fraction * 2**64
                    yield Document(text, source, "validation" if chosen else "train")
                else:
                    duplicates[source] += 1
    database.unlink()


@contextlib.contextmanager
def _database_errors(database: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        hint = "make room or name another data.dir, and prepare again"
        raise UserError("data.dir", f"{database}: {error}", "a disk that can be written, with room", hint) from None


def batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Groups of documents with _BATCH characters together, or one longer document."""
    batch, size = [], 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _encode(encoder: tokenizer.Tokenizer, batch: list[Document], sep: int) -> Encoded:
    """The documents that have tokens."""
    parts = [list(pieces(document.text)) for document in batch]
    encodings = iter(encoder.encode_batch_fast(list(itertools.chain(*parts)), add_special_tokens=False))
    encoded = []
    for document, own in zip(batch, parts, strict=True):
        ids = itertools.chain.from_iterable(encoding.ids for encoding in itertools.islice(encodings, len(own)))
        encoded.append((document, np.fromiter(itertools.chain(ids, (sep,)), np.uint16)))
    return [(document, ids) for document, ids in encoded if len(ids) > 1]


def pieces(text: str) -> Iterator[str]:
    """`text` cut at line ends, where no token can be, into parts that keep all cores equally busy."""
    start = 0
    while (end := text.find("\n", start + _PIECE)) >= 0:
        yield text[start:end]
        start = end
    yield text[start:]


def _ahead(encode: Callable[[list[Document]], Encoded], batches: Iterable[list[Document]]) -> Iterator[Encoded]:
    """`map(encode, batches)`, a batch ahead of the caller, who reads and writes meanwhile.

    One thread encodes: the library spreads a batch over all cores, and two batches at once only get in
    each other's way.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        running: deque[Future[Encoded]] = deque()
        for batch in batches:
            running.append(pool.submit(encode, batch))
            if len(running) > 1:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _recipe(config: Config) -> dict[str, Any]:
    """Returns the fields that decide the rows of a corpus, apart from the content of its sources."""
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
