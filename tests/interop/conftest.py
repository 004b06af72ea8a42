"""Imports the tiny models of the paper's code, once for all tests."""

import pytest
from etils import epath

from tests.interop.ours import import_models


@pytest.fixture(scope="session")
def workdirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, epath.Path]:
    """The workdirs of the imported models, by attention."""
    return import_models(tmp_path_factory.mktemp("imported"))
