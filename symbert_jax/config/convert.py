"""Converts configs from and to other forms: the `ConfigDict` that files and flags change, nested mappings, JSON."""

import ast
import csv
import dataclasses
import json
import typing
from collections.abc import Mapping
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from symbert_jax.config.checks import check
from symbert_jax.config.schema import Config, FinetuneConfig, StudyConfig
from symbert_jax.errors import UserError, did_you_mean
from symbert_jax.storage import parse_json_object, read_json


def default() -> ConfigDict:
    """Returns the paper's BERT-base recipe. Its fields can be changed, but none can be added."""
    return ConfigDict(dataclasses.asdict(Config())).lock()


def default_finetune() -> ConfigDict:
    """Returns the paper's protocol on every GLUE task. As in `default`, fields can be changed, but none added."""
    return ConfigDict(dataclasses.asdict(FinetuneConfig())).lock()


def default_study() -> ConfigDict:
    """Returns a study of the paper's three variants. As in `default`, fields can be changed, but none added."""
    return ConfigDict(dataclasses.asdict(StudyConfig())).lock()


def freeze(config: ConfigDict) -> Config:
    """Returns the config, checked and immutable.

    Raises:
      UserError: a field or a combination of fields is wrong.
    """
    frozen = freeze_unchecked(config)
    check(frozen)
    return frozen


def freeze_unchecked(config: ConfigDict) -> Config:
    """Returns the immutable config without checking its `problems`; raises the same `UserError`s as `from_dict`."""
    return from_dict(config.to_dict())


def freeze_finetune(config: ConfigDict) -> FinetuneConfig:
    """Returns the config of `finetune`, checked and immutable; raises the same errors as `freeze`."""
    frozen: FinetuneConfig = _build(FinetuneConfig, config.to_dict(), "config")
    check(frozen)
    return frozen


def freeze_study(config: ConfigDict) -> StudyConfig:
    """Returns the config of `study`, checked and immutable; raises as `freeze`."""
    frozen: StudyConfig = _build(StudyConfig, config.to_dict(), "config")
    check(frozen)
    return frozen


def from_dict(tree: Mapping[str, Any]) -> Config:
    """Returns a `Config` from nested mappings; a missing field takes its default, so old checkpoints keep loading.

    Raises:
      UserError: a field is unknown or has the wrong type.
    """
    config: Config = _build(Config, tree, "config")
    return config


def to_json(config: Config) -> str:
    """Returns the config in the format of config.json."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str, where: str = "config.json") -> Config:
    """Returns the config that `to_json` wrote; `where` names the file in errors.

    Raises:
      UserError: the text is not a JSON object, or a field is unknown or has the wrong type.
    """
    config: Config = _build(Config, parse_json_object(text, where, "config"), f"{where}: config")
    return config


def read(workdir: epath.Path) -> Config:
    """Returns the config of the run in `workdir`; raises `UserError` as `from_json` does, or if there is no config."""
    file = workdir / "config.json"
    config: Config = _build(Config, read_json(file, "checkpoint"), f"{file}: config")
    return config


def split_list(text: str) -> list[str]:
    """Splits a list in the form of the command line: `a,b`, with double quotes around a part that contains a comma.

    A Python tuple or list of strings and numbers is accepted too. Empty parts are left out. Raises `UserError` if
    double quotes are unbalanced or the text has several lines.
    """
    if text[:1] in ("(", "["):
        try:
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found = None
        if isinstance(found, tuple | list) and all(isinstance(part, str | int | float) for part in found):
            return [str(part) for part in found]
    if not text.strip():
        return []
    try:
        (parts,) = csv.reader([text], strict=True)
    except (csv.Error, ValueError):  # ValueError: a line end in the text makes several rows
        wanted = "parts separated by commas, double quotes around one that contains a comma"
        raise UserError("command line", repr(text), wanted) from None
    return [part.strip() for part in parts if part.strip()]


def _build(kind: type, value: Any, path: str) -> Any:
    """Returns an instance of the dataclass `kind` from a mapping; `path` names the instance in errors."""
    if not isinstance(value, Mapping):
        raise UserError(path, repr(value), "a mapping of fields")
    types = typing.get_type_hints(kind)
    if unknown := sorted(set(value) - set(types)):
        raise UserError(f"{path}.{unknown[0]}", "no such field", "a known one", did_you_mean(unknown[0], types))
    return kind(**{name: _convert(types[name], found, f"{path}.{name}") for name, found in value.items()})


def _convert(kind: Any, value: Any, path: str) -> Any:
    """Returns the value as `kind`, the type of a field: a dataclass, a tuple or a scalar; `path` names it in errors."""
    if dataclasses.is_dataclass(kind):
        return _build(typing.cast(type, kind), value, path)
    if typing.get_origin(kind) is tuple:
        items = split_list(value) if isinstance(value, str) else value
        if not isinstance(items, tuple | list):
            raise UserError(path, repr(value), "a list")
        return tuple(_convert_scalar(typing.get_args(kind)[0], item, path) for item in items)
    if kind is float and type(value) is int:
        return _convert_scalar(float, value, path)
    if type(value) is not kind:
        raise UserError(path, repr(value), f"a value of type {kind.__name__}")
    return value


def _convert_scalar(kind: Any, value: Any, path: str) -> Any:
    """Converts text or a number to `kind`, but not a float to int. Text comes from lists on the command line."""
    try:
        if type(value) not in (str, int, float) or (kind is int and type(value) is float):
            raise ValueError
        return kind(value)
    except (ValueError, OverflowError):  # OverflowError: an int beyond every float
        raise UserError(path, repr(value)[:80], f"a value of type {kind.__name__}") from None
