"""A bucket without a cloud."""

import fsspec
import pytest
from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem


class Bucket(MemoryFileSystem):
    """A cloud bucket that lives in memory."""

    protocol = ("gs", "gcs")
    store: dict = {}  # noqa: RUF012  fsspec's way: one store for all instances
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("gs://").strip("/")


@pytest.fixture
def bucket() -> AbstractFileSystem:
    """What stands behind gs:// for now."""
    for protocol in Bucket.protocol:
        fsspec.register_implementation(protocol, Bucket, clobber=True)
    Bucket.store.clear()
    return Bucket()
