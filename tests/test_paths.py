"""Where a user's path leads."""

from pathlib import Path

import pytest
from etils import epath

from symbert_jax.paths import absolute


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("gs://bucket/runs/../a", "gs://bucket/runs/../a"),
        ("~/runs", str(Path.home() / "runs")),
        ("runs/../a", str(Path.cwd() / "a")),
        ("/runs", "/runs"),
    ],
)
def test_local_paths_become_absolute_and_buckets_stay_as_they_are(path: str, wanted: str) -> None:
    assert str(absolute(path)) == wanted
    assert absolute(epath.Path(path)) == absolute(path)
