"""Prepares `--config` and the flags of its fields for ml-collections, and turns exceptions of the config file into
`UserError`s."""

import logging
import os
import re
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from ml_collections import ConfigDict

from symbert_jax import config as configs
from symbert_jax.config import Config, FinetuneConfig, StudyConfig
from symbert_jax.errors import UserError

Frozen = TypeVar("Frozen", Config, FinetuneConfig, StudyConfig)

_WANTED = "a file whose get_config() changes known fields of the defaults in symbert_jax/config/schema.py"

# `ConfigFile.to_config` reports a config file that returns nothing, so the warning of ml-collections is redundant.
logging.getLogger("absl").addFilter(lambda record: "get_config() returned None" not in record.getMessage())


class ConfigFile(NamedTuple):
    """A config file, and the config that its `get_config` returned, with the values that flags set."""

    path: str
    config: Any  # a `ConfigDict`, unless the file returns something else

    def to_config(self, freeze: Callable[[ConfigDict], Frozen]) -> Frozen:
        """Returns `freeze` of the config; raises `UserError` if the config is wrong or missing."""
        if self.config is None:
            raise UserError("config", f"{self.path}: get_config() returns nothing", _WANTED)
        try:
            return freeze(self.config)
        except UserError:
            raise
        except Exception as error:
            raise as_user_error(error, self.path) from None


def find_file(arguments: list[str]) -> tuple[list[str], str]:
    """Replaces the name of the config file after --config by its path; returns the arguments and the path.

    The path is empty if there is no --config. The argument of `get_config`, which may follow the name after a colon, is
    kept.
    """
    arguments, path = list(arguments), ""
    for i, argument in enumerate(arguments):
        # --config=FILE, or --config with FILE as the next argument
        if match := re.fullmatch(r"(--?config)(?:=(.*))?", argument, re.DOTALL):
            if match[2] is None and i + 1 == len(arguments):
                break  # absl reports that the value is missing
            index, prefix, value = (i + 1, "", arguments[i + 1]) if match[2] is None else (i, f"{match[1]}=", match[2])
            name, colon, parameter = value.partition(":")
            path = configs.find(name)
            arguments[index] = f"{prefix}{path}{colon}{parameter}"
    return arguments, path


def quote_lists(arguments: list[str], field_defaults: dict[str, Any]) -> list[str]:
    """Writes the values of list fields as Python tuples, the only form that ml-collections does not split at commas."""
    arguments = list(arguments)
    for i, argument in enumerate(arguments):
        # --config.FIELD=VALUE, or --config.FIELD with VALUE as the next argument
        match = re.fullmatch(r"(--?config\.([^=]*))(?:=(.*))?", argument, re.DOTALL)
        if match and isinstance(field_defaults.get(match[2]), tuple):
            if match[3] is not None:
                arguments[i] = f"{match[1]}={_to_tuple(match[3])}"
            elif i + 1 < len(arguments):
                arguments[i + 1] = _to_tuple(arguments[i + 1])
    return arguments


def _to_tuple(text: str) -> str:
    return repr(tuple(configs.split_list(text)))


def cause_in_file(error: Exception, path: str) -> Exception | None:
    """Returns the exception that the config file raised: `error` or one that led to it; None if there is none."""
    cause: BaseException | None = error
    while isinstance(cause, Exception):
        if _line_of(cause, path):
            return cause
        cause = cause.__context__
    return None


def as_user_error(error: Exception, path: str) -> UserError:
    """Returns the error for an exception; it names the line of the config file if the exception was raised there."""
    line = _line_of(error, path)
    where = f"{path}, line {line}: {type(error).__name__}" if line else path
    return UserError("config", f"{where}: {one_line(error)}", _WANTED)


def exit_error(path: str, code: object) -> UserError:
    """Returns the error for a config file that ends the process."""
    return UserError("config", f"{path} exits with {code}", _WANTED)


def _line_of(error: Exception, path: str) -> int:
    """Returns the line of the config file that raised an error, or called the code that raised it; 0 if none did."""
    real = os.path.realpath(path)
    if isinstance(error, SyntaxError) and error.filename and os.path.realpath(error.filename) == real:
        return error.lineno or 0
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if os.path.realpath(f.filename) == real]
    return (lines[-1] or 0) if lines else 0


def one_line(error: Exception) -> str:
    """Returns the message of an exception in one line."""
    text = str(error.args[0] if error.args else error)
    if "Traceback (most recent call last)" in text:  # ml-collections adds the traceback of some exceptions
        text = text.strip().splitlines()[-1]
    return " ".join(text.split())
