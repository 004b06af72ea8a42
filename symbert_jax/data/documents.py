"""The distinct documents of a corpus, each with its split."""

import contextlib
import hashlib
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from symbert_jax.config import DataConfig
from symbert_jax.data import sources
from symbert_jax.errors import UserError


class Document(NamedTuple):
    text: str
    source: str  # the entry of `data.sources` that the document comes from
    split: str  # train or validation


def distinct_documents(data: DataConfig, database: Path, duplicates: Counter[str]) -> Iterator[Document]:
    """Yields every distinct document of the sources once; adds the number of duplicates, by source, to `duplicates`.

    The split of a document depends only on a hash of its text and on `data.validation_fraction`.

    database: a file for the hashes, so that memory does not grow with the corpus. It is removed after the last
      document.
    """
    with (
        _sqlite_errors_as_user_errors(database),
        contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection,
    ):
        # The file is of no use after a crash, so SQLite need not protect it.
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("CREATE TABLE digests (digest BLOB PRIMARY KEY) WITHOUT ROWID")
        connection.execute("BEGIN")
        for source in data.sources:
            for text in sources.documents(source):
                digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
                if connection.execute("INSERT OR IGNORE INTO digests VALUES (?)", (digest,)).rowcount:
                    # The first 8 bytes are a number that is uniform in [0, 2**64).
                    is_validation = int.from_bytes(digest[:8]) < data.validation_fraction * 2**64
                    yield Document(text, source, "validation" if is_validation else "train")
                else:
                    duplicates[source] += 1
    database.unlink()


@contextlib.contextmanager
def _sqlite_errors_as_user_errors(database: Path) -> Iterator[None]:
    """Converts the exceptions of SQLite to `UserError`."""
    try:
        yield
    except sqlite3.Error as error:
        hint = "make room or name another data.dir, and prepare again"
        raise UserError("data.dir", f"{database}: {error}", "a disk that can be written, with room", hint) from None
