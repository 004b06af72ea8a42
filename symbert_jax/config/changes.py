"""Changes of a config that are written as text, FIELD=VALUE: in the arms of a study and in the phases of a run."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from symbert_jax.config.schema import Config
from symbert_jax.config.walk import values_by_name
from symbert_jax.errors import UserError, did_you_mean


class Changeable(NamedTuple):
    """The fields that a change may name."""

    contains: Callable[[str], bool]  # whether a field, by its dotted name, may change
    wanted: str  # describes these fields in errors
    hint: str


def with_change(config: Config, change: str, changeable: Changeable, where: str) -> Config:
    """Returns the config with one field changed.

    where: names the text of the change in errors.

    Raises:
      UserError: the change is not FIELD=VALUE, or the field or the value is not known.
    """
    field, equals, text = change.partition("=")
    values = values_by_name(config)
    if not equals or not changeable.contains(field):
        raise UserError(where, repr(change), f"FIELD=VALUE with {changeable.wanted}", changeable.hint)
    if field not in values:
        raise UserError(f"{where}: {field}", "no such field", "a known one", did_you_mean(field, values))
    return with_values(config, {field: _parse(text, type(values[field]), f"{where}: {field}")})


def with_values(config: Config, values: dict[str, Any]) -> Config:
    """Returns the config with other values of some fields, given by the dotted names of fields in a section."""
    for field, value in values.items():
        section, name = field.split(".")
        changed = dataclasses.replace(getattr(config, section), **{name: value})
        config = dataclasses.replace(config, **{section: changed})
    return config


def _parse(text: str, kind: type, where: str) -> Any:
    """Returns the value of a field of type `kind`."""
    try:
        return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError, OverflowError):
        raise UserError(where, repr(text), f"a value of type {kind.__name__}") from None
