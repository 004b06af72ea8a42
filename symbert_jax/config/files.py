"""Finds the documented config files, which are in configs/ of a checkout or symbert_jax/configs of an installation."""

import os
import runpy
from pathlib import Path

from ml_collections import ConfigDict

from symbert_jax.errors import UserError, did_you_mean

_PACKAGE = Path(__file__).parents[1]
_INSTALLED = _PACKAGE / "configs"
_FOLDER = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "configs"


def find(name: str) -> str:
    """Returns the path of a config file: `name` itself if it is a file, else the documented file with this name.

    name: a path, or a documented file as `base`, `base.py` or `configs/base.py`.

    Raises:
      UserError: there is no such file.
    """
    return name if os.path.isfile(name) else _find_documented(name.removeprefix("configs/").removesuffix(".py"), name)


def get_config(name: str) -> ConfigDict:
    """Returns the config of a documented file. Other config files start from it: `c = config.get_config("base")`."""
    config: ConfigDict = runpy.run_path(_find_documented(stem=name, name=name))["get_config"]()
    return config


def _find_documented(stem: str, name: str) -> str:
    """Returns the path of the documented file `stem`.py; errors show `name`, as the user wrote it."""
    known = {path.stem: str(path) for path in sorted(_FOLDER.glob("*.py"))}
    if stem not in known:
        raise UserError("config", f"no file {name}", "one of yours or of configs/", did_you_mean(stem, known))
    return known[stem]
