"""The flag `--config` and those of its fields, before ml-collections reads them, and errors of the config file."""

import logging
import os
import re
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from ml_collections import ConfigDict

from symbert_jax import config as configs
from symbert_jax.config import Config, FinetuneConfig
from symbert_jax.errors import UserError

Frozen = TypeVar("Frozen", Config, FinetuneConfig)

_WANTED = "a file whose get_config() changes known fields of the defaults in symbert_jax/config/schema.py"

# ml-collections also warns of a config file that returns nothing
logging.getLogger("absl").addFilter(lambda record: "get_config() returned None" not in record.getMessage())


class ConfigFile(NamedTuple):
    """What a config file returned, with the fields that flags changed."""

    path: str
    config: Any  # a ConfigDict, if the file is right

    def freeze(self, freeze: Callable[[ConfigDict], Frozen]) -> Frozen:
        """Returns the config, checked by `freeze`; raises `UserError` also where it is no config at all."""
        if self.config is None:
            raise UserError("config", f"{self.path}: get_config() returns nothing", _WANTED)
        try:
            return freeze(self.config)
        except UserError:
            raise
        except Exception as error:
            raise as_user_error(error, self.path) from None


def find_file(arguments: list[str]) -> tuple[list[str], str]:
    """Returns the arguments with the path of the config file behind --config, and this path, empty if there is none.

    What may follow the name behind a colon, the argument of `get_config`, is kept.
    """
    arguments, path = list(arguments), ""
    for i, argument in enumerate(arguments):
        if match := re.fullmatch(r"(--?config)(?:=(.*))?", argument, re.DOTALL):
            if match[2] is None and i + 1 == len(arguments):
                break  # absl reports that the value is missing
            at, prefix, value = (i + 1, "", arguments[i + 1]) if match[2] is None else (i, f"{match[1]}=", match[2])
            name, colon, parameter = value.partition(":")
            path = configs.find(name)
            arguments[at] = f"{prefix}{path}{colon}{parameter}"
    return arguments, path


def quote_lists(arguments: list[str], fields: dict[str, Any]) -> list[str]:
    """Returns the arguments with list fields as Python tuples, the only form that ml-collections does not split."""
    arguments = list(arguments)
    for i, argument in enumerate(arguments):
        match = re.fullmatch(r"(--?config\.([^=]*))(?:=(.*))?", argument, re.DOTALL)
        if match and isinstance(fields.get(match[2]), tuple):
            if match[3] is not None:
                arguments[i] = f"{match[1]}={_tuple(match[3])}"
            elif i + 1 < len(arguments):
                arguments[i + 1] = _tuple(arguments[i + 1])
    return arguments


def _tuple(text: str) -> str:
    return repr(tuple(configs.split_list(text)))


def cause_in_file(error: Exception, path: str) -> Exception | None:
    """Returns the exception that a line of the config file raised, of those that absl raised another one for."""
    cause: BaseException | None = error
    while isinstance(cause, Exception):
        if _line_of(cause, path):
            return cause
        cause = cause.__context__
    return None


def as_user_error(error: Exception, path: str) -> UserError:
    """Returns the error for an exception: in the config file, with the line, or over what the file returned."""
    line = _line_of(error, path)
    where = f"{path}, line {line}: {type(error).__name__}" if line else path
    return UserError("config", f"{where}: {one_line(error)}", _WANTED)


def exits(path: str, code: object) -> UserError:
    """Returns the error for a config file that ends the process."""
    return UserError("config", f"{path} exits with {code}", _WANTED)


def _line_of(error: Exception, path: str) -> int:
    """Returns the last line of the config file in the traceback of an error, 0 if none of it is there."""
    real = os.path.realpath(path)
    if isinstance(error, SyntaxError) and error.filename and os.path.realpath(error.filename) == real:
        return error.lineno or 0
    lines = [at.lineno for at in traceback.extract_tb(error.__traceback__) if os.path.realpath(at.filename) == real]
    return (lines[-1] or 0) if lines else 0


def one_line(error: Exception) -> str:
    """Returns the message of an exception in one line."""
    text = str(error.args[0] if error.args else error)
    if "Traceback (most recent call last)" in text:  # ml-collections includes that of a TypeError or ValueError
        text = text.strip().splitlines()[-1]
    return " ".join(text.split())
