"""The `prepare` command: checks the config, calls the engine, writes the description and the manifest, and reports."""

import contextlib
import importlib.metadata
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from etils import epath

import symbert_jax
from symbert_jax.config import Config
from symbert_jax.data import rows, tokenizer
from symbert_jax.data.manifest import MANIFEST, SPLITS, check_files, is_finished, read_manifest, write_manifest
from symbert_jax.data.prepare import local
from symbert_jax.data.prepare.written import Written, manifest_facts
from symbert_jax.data.vocabulary import VOCAB
from symbert_jax.errors import UserError, printable
from symbert_jax.storage import (
    LOCK,
    absolute,
    bucket_errors_as_user_errors,
    is_bucket,
    lock,
    new_folder,
    remove_contents,
    write_whole,
)

# Writes the vocabulary and the row files of a corpus to a folder.
Engine = Callable[[Config, dict[str, Any], Any], Written]


def prepare(config: Config, beam_options: str = "") -> None:
    """Writes the corpus of `config.data.sources` to `config.data.dir`; does nothing if it is already there.

    All files are written to `DIR.incomplete`, which is renamed to `DIR` at the end (see `storage.new_folder`). A run
    that ends before, by an error or a kill, is continued by the next one.

    beam_options: options of Apache Beam, whose workers prepare the corpus; empty: the cores of this machine do.

    Raises:
      UserError: a source, the vocabulary or the folder cannot be used; the folder holds other files, or a corpus that
        is damaged or has another recipe (see `_recipe`); another run writes to it; or there is too little text for a
        row.
    """
    engine = _engine(beam_options)
    if is_bucket(config.data.dir):
        if not beam_options:
            hint = "let a cluster write it: --beam; or copy the corpus to the bucket, where training can read it"
            raise UserError("data.dir", config.data.dir, "a local folder", hint)
        _prepare_in_bucket(config, _recipe(config), engine)
        return
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
    # SIGTERM ends a pipeline at once: the threads of its runner would keep a process alive that cleans up.
    with (
        contextlib.nullcontext() if beam_options else _exit_on_sigterm(),
        new_folder(epath.Path(target), "data.dir", resume=True) as work,
    ):
        if _is_prepared(recipe, target):  # another run finished it before this one got the lock
            remove_contents(work)
            return
        summary = _write_corpus(config, recipe, engine, Path(work))
    print(f"{target}: {summary}")
    if advice := read_manifest(target).advice():
        print(f"warning: {advice}", file=sys.stderr)


def _engine(beam_options: str) -> Engine:
    if not beam_options:
        return local.write_rows
    try:
        from symbert_jax.data.prepare import beam
        from symbert_jax.data.prepare.beam_options import parse_options
    except ModuleNotFoundError as error:
        raise UserError("--beam", str(error), "Apache Beam", "pip install apache-beam") from None
    options = parse_options(beam_options)
    return lambda config, _, folder: beam.write_rows(config, options, epath.Path(folder))


def _recipe(config: Config) -> dict[str, Any]:
    """Returns the fields that determine the rows of a corpus, apart from the content of its sources."""
    vocab = config.data.vocab
    if training := tokenizer.find_training(vocab, config.data.lowercase):
        vocab = f"{training} {config.model.vocab_size}"
    elif not vocab.startswith("hf:"):
        vocab = f"sha256 {tokenizer.read(tokenizer.find(vocab)).fingerprint()}"
    return {
        "sources": sorted(set(config.data.sources)),
        "vocab": vocab,
        "length": config.model.length,
        "validation_fraction": config.data.validation_fraction,
        "packing": config.data.packing,
    }


def _is_prepared(recipe: dict[str, Any], folder: Path) -> bool:
    """Returns whether `folder` holds a finished corpus of this recipe; if it does, tells the user.

    Raises:
      UserError: the corpus is damaged or has another recipe.
    """
    if not is_finished(folder):
        return False
    _check_recipe(recipe, folder, folder)
    check_files(folder, read_rows=False)
    print(f"{folder} is already prepared")
    return True


def _check_recipe(recipe: dict[str, Any], folder: Path, location: epath.PathLike) -> None:
    """Raises `UserError`, which names `location`, if the corpus in `folder` has another recipe."""
    for name, wanted in _changed_fields(recipe, folder).items():
        field = "model.length" if name == "length" else f"data.{name}"
        found = f"{recipe[name]} for {location}, which is already prepared with another value"
        raise UserError(field, found, str(wanted), "remove that folder, or name another data.dir")


def _changed_fields(recipe: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Returns the fields in which the recipe of the corpus in `folder` differs, with their values there."""
    content = read_manifest(folder).content
    if isinstance(found := content.get("sources"), list):  # older versions did not sort them
        content["sources"] = sorted(set(found))
    content.setdefault("packing", "concat")  # older versions had no other
    return {name: content.get(name) for name, value in recipe.items() if content.get(name) != value}


@contextlib.contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Makes SIGTERM raise `SystemExit`, so that workers end and the lock is released. A second SIGTERM kills."""
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


def _write_corpus(config: Config, recipe: dict[str, Any], engine: Engine, work: Path) -> str:
    """Writes all files of the corpus to the folder `work`; returns a summary for the user."""
    start = time.monotonic()
    if not is_finished(work) or _changed_fields(recipe, work):  # else a run was killed before it renamed the folder
        _write_description(recipe, engine(config, recipe, work), work)
    local.remove_unfinished(work)
    return _summary(read_manifest(work).content, time.monotonic() - start)


def _prepare_in_bucket(config: Config, recipe: dict[str, Any], engine: Engine) -> None:
    """Writes the corpus to a folder in a bucket, the manifest last, unless it is already there.

    A folder of objects cannot be renamed, so until the manifest is there, it holds files without being a corpus.

    Raises:
      UserError: as `prepare`, or the bucket cannot be written.
    """
    start, target = time.monotonic(), epath.Path(config.data.dir)
    with (
        bucket_errors_as_user_errors("data.dir", target, "a bucket that can be read and written"),
        lock(target, "data.dir"),
        tempfile.TemporaryDirectory() as folder,
    ):
        if (target / MANIFEST).exists():
            (target / MANIFEST).copy(epath.Path(folder) / MANIFEST)
            _check_recipe(recipe, Path(folder), target)
            print(f"{target} is already prepared")
            return
        names = {path.name for path in target.iterdir()} - {LOCK}
        if names and local.UNFINISHED not in names:
            raise UserError("data.dir", f"{target}, which is not a corpus", "a folder where nothing exists yet")
        written = engine(config, recipe, target)
        for name in (VOCAB, tokenizer.TOKENIZER, tokenizer.SPECIAL_TOKENS_FILE):
            if (target / name).exists():
                (target / name).copy(epath.Path(folder) / name)
        _write_description(recipe, written, Path(folder))
        for path in sorted(epath.Path(folder).iterdir(), key=lambda path: path.name == MANIFEST):
            path.copy(target / path.name, overwrite=True)
        (target / local.UNFINISHED).rmtree()
        manifest = read_manifest(Path(folder))
    print(f"{target}: {_summary(manifest.content, time.monotonic() - start)}")
    if advice := manifest.advice():
        print(f"warning: {advice}", file=sys.stderr)


def _write_description(recipe: dict[str, Any], written: Written, folder: Path) -> None:
    """Writes the description of the rows and the manifest to `folder`, which holds the tokenizer."""
    text_tokenizer = tokenizer.read(folder)
    dtype = rows.row_dtype(len(text_tokenizer.tokens))
    counts = {split: [file.rows for file in files] for split, files in written.files.items() if files}
    rows.write_info(folder, recipe["length"], dtype, counts)
    facts = manifest_facts(written, recipe, text_tokenizer)
    from symbert_jax.data.prepare.page import PAGE, format_page  # matplotlib takes a second to import

    write_whole(epath.Path(folder) / PAGE, format_page(facts, written.statistics))
    versions = {name: importlib.metadata.version(name) for name in ("tokenizers", "tensorflow-datasets")}
    facts |= {"versions": {"symbert_jax": symbert_jax.__version__, **versions}}
    names = {
        rows.file_name(split, i): file.file for split, files in written.files.items() for i, file in enumerate(files)
    }
    write_manifest(folder, facts, known=names)


def _summary(content: dict[str, Any], seconds: float) -> str:
    """Returns what the user wants to know of a corpus before a run."""
    train, validation = (content["splits"][split] for split in SPLITS)
    documents, tokens, unknown = (train[name] + validation[name] for name in ("documents", "tokens", "unk_tokens"))
    lengths = content["document_tokens"]
    padding = f", {train['padding_share']:.2%} of the training rows padding" if train["padding_share"] else ""
    return (
        f"{train['rows']:,} rows of {content['length']} tokens to train "
        f"and {validation['rows']:,} to validate from {documents:,} documents, "
        f"{sum(content['duplicates'].values()):,} duplicates dropped, "
        f"{unknown / tokens:.2%} of the tokens [UNK]{padding}, in {seconds:.1f} s "
        f"({documents / seconds:,.0f} documents/s, {tokens / seconds:,.0f} tokens/s)\n"
        f"tokens in a document: {', '.join(f'{name} {number:,}' for name, number in lengths.items())}\n"
        f"most frequent tokens: {printable(' '.join(list(content['frequent_tokens'])[:20]))}"
    )
