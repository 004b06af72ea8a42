"""A fake bucket in memory."""

import fsspec
import pytest
from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem


class Bucket(MemoryFileSystem):
    """A file system in memory that fsspec uses for gs://."""

    protocol = ("gs", "gcs")
    store: dict = {}  # noqa: RUF012  fsspec shares it between all instances
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("gs://").strip("/")


@pytest.fixture
def bucket() -> AbstractFileSystem:
    """Replaces the file system of gs:// by one in memory."""
    for protocol in Bucket.protocol:
        fsspec.register_implementation(protocol, Bucket, clobber=True)
    Bucket.store.clear()
    return Bucket()
