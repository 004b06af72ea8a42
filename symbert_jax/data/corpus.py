"""A prepared corpus as a run opens it: on the local disk, compared with its manifest."""

import functools
import hashlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from etils import epath

from symbert_jax.config import Config, ModelConfig, rows_by_corpus
from symbert_jax.data import tokenizer
from symbert_jax.data.manifest import (
    MANIFEST,
    PREPARE_HINT,
    SPLITS,
    Manifest,
    check_files,
    is_finished,
    parse_manifest,
    read_manifest,
)
from symbert_jax.data.rows import DAMAGE_HINT, Rows, Split, read_tokens
from symbert_jax.data.tokenizer import TextTokenizer
from symbert_jax.errors import UserError
from symbert_jax.storage import absolute, bucket_errors_as_user_errors, is_bucket, lock, new_folder, user_cache

SAMPLED_ROWS = 256  # the fingerprint reads at most this many rows of each split


class Corpus:
    """A prepared corpus, opened once by a run and handed to everything that reads it.

    Its parts are read when they are first used, so that `doctor` can report a missing or damaged corpus among the other
    problems of a run. Reading any part raises `UserError` if the corpus is missing or damaged.
    """

    def __init__(self, location: str):
        """location: `config.data.dir`, a folder on a disk or in a bucket."""
        self.location = location
        self._splits: dict[str, Split] = {}

    @functools.cached_property
    def folder(self) -> Path:
        """The folder of the corpus on a local disk. Its files match the manifest, row files at least in size."""
        folder = local_copy(self.location)
        check_files(folder, read_rows=False)
        return folder

    @functools.cached_property
    def manifest(self) -> Manifest:
        return read_manifest(self.folder)

    @functools.cached_property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer that made the rows."""
        return tokenizer.read(self.folder)

    def split(self, name: str) -> Split:
        """Returns the rows of a split, train or validation; raises `UserError` if it is empty."""
        if name not in self._splits:
            self._splits[name] = self._open_split(name)
        return self._splits[name]

    def _open_split(self, name: str) -> Split:
        folder, count = self.folder, self.manifest.row_counts[name]
        if not count:
            hint = f"raise data.validation_fraction, name another data.dir and {PREPARE_HINT}"
            raise UserError("data.dir", f"no {name} rows in {folder}", "at least one", hint)
        try:
            split = Split(folder, name)
            found = len(split)
        except Exception as error:  # a damaged description can raise an exception of any type
            reason = f"{folder}: {type(error).__name__}: {error}"
            raise UserError("data.dir", reason, "intact files", DAMAGE_HINT) from error
        if found != count:
            wanted = f"{count}, as {MANIFEST} says"
            raise UserError("data.dir", f"{found} {name} rows in {folder}", wanted, DAMAGE_HINT)
        return split

    @functools.cached_property
    def fingerprint(self) -> str:
        """A SHA-256 that identifies the vocabulary and the rows; checkpoints record it."""
        return compute_fingerprint(self.tokenizer.tokens, [self.split(name) for name in SPLITS])

    def problems(self, model: ModelConfig) -> Iterator[UserError]:
        """Yields an error if the rows and the model differ in length, and one if the model has too few token ids."""
        if self.manifest.length != model.length:
            wanted = f"{self.manifest.length}, the length of the rows in {self.folder}"
            yield UserError("model.length", str(model.length), wanted, f"or name another data.dir and {PREPARE_HINT}")
        if (count := len(self.tokenizer.tokens)) > model.vocab_size:
            wanted = f"at least {count}, the number of tokens of the tokenizer in {self.folder}"
            yield UserError("model.vocab_size", str(model.vocab_size), wanted)

    def check_row_files(self) -> None:
        """Reads all files, row files included; raises `UserError` if one does not have the checksum in the manifest."""
        check_files(self.folder, read_rows=True)


class Corpora(dict[str, Corpus]):
    """The corpora of a run by location, `data.dir`. Each is opened when it is first asked for."""

    def __missing__(self, location: str) -> Corpus:
        self[location] = Corpus(location)
        return self[location]

    def of(self, config: Config) -> Corpus:
        """Returns the corpus of the last phase, which the config names."""
        return self[config.data.dir]

    def fingerprints(self, config: Config) -> list[str]:
        """Returns the fingerprint of every corpus of a run, in the order of their first use."""
        return [self[location].fingerprint for location in rows_by_corpus(config)]


def compute_fingerprint(vocabulary: Sequence[str], splits: Sequence[Rows]) -> str:
    """Returns a SHA-256 of the vocabulary and, for each split, of the number of rows and an even sample of them."""
    digest = hashlib.sha256("\n".join(vocabulary).encode())
    for split in splits:
        sampled = np.unique(np.linspace(0, len(split) - 1, SAMPLED_ROWS).astype(int))
        digest.update(f"{len(split)}".encode() + read_tokens(split, sampled).tobytes())
    return digest.hexdigest()


def local_copy(location: str) -> Path:
    """Returns the folder of the corpus on a local disk.

    A corpus in a bucket is copied to the disk once, because random access to a bucket is slow. A local folder is
    returned unchecked, even if it does not exist.

    Raises:
      UserError: the path cannot be used, the bucket cannot be read, or it holds no finished corpus or a damaged one.
    """
    if not is_bucket(location):
        return Path(absolute(location, "data.dir"))
    source = epath.Path(location)
    with bucket_errors_as_user_errors("data.dir", location, "a bucket that can be read"):
        if not (source / MANIFEST).exists():
            raise UserError("data.dir", f"no finished corpus in {location}", f"a folder with {MANIFEST}", PREPARE_HINT)
        manifest = (source / MANIFEST).read_bytes()
    parse_manifest(manifest.decode(errors="replace"), source)
    # The name depends on the manifest, too: another corpus may later be written to the same location.
    name = hashlib.sha256(f"{location}\n".encode() + manifest).hexdigest()[:16]
    copy = user_cache("corpora") / name
    if not is_finished(copy):
        wanted = f"a bucket that can be read, and room in {copy.parent}"
        with bucket_errors_as_user_errors("data.dir", location, wanted):
            _copy(source, copy)
    return copy


def _copy(source: epath.Path, copy: Path) -> None:
    """Copies a corpus, whole or not at all. One process of a host copies, and the others wait for it."""
    with lock(copy.parent, "data.dir", wait=True):
        if is_finished(copy):
            return
        # Killed runs leave folders such as 0123456789abcdef.incomplete, of this corpus or another. The name of a
        # finished copy has no dot, and the name of the lock file begins with one.
        for unfinished in copy.parent.glob("[!.]*.*"):
            shutil.rmtree(unfinished)
        print(f"copying {source} to {copy}", flush=True)
        with new_folder(epath.Path(copy), "data.dir", remove_failed=True) as new:
            for file in filter(epath.Path.is_file, source.iterdir()):
                file.copy(new / file.name)
            check_files(Path(new), read_rows=True, source=source)
