"""The arms of a study: the base config with a few fields changed, written as `NAME: FIELD=VALUE FIELD=VALUE`."""

import dataclasses
import re
from typing import Any

from symbert_jax.config.schema import Config, StudyConfig
from symbert_jax.config.walk import values_by_name
from symbert_jax.errors import UserError, did_you_mean

# Other fields belong to the whole study, so that all arms see the same batches and have the same learning rates.
_SECTIONS, _OF_STUDY = ("model.", "optim."), "optim.learning_rate"


def parse_arms(study: StudyConfig) -> dict[str, Config]:
    """Returns the config of each arm by its name, in the order of the study.

    Raises:
      UserError: an arm is not `NAME: FIELD=VALUE …`, two have the same name, or a field or value is not known.
    """
    arms: dict[str, Config] = {}
    for text in study.arms:
        name, _, changes = text.partition(":")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", name):  # it names a folder
            wanted = "NAME or NAME: FIELD=VALUE …, with a NAME of letters, digits and _ . + -"
            raise UserError("arms", repr(text), wanted)
        if name in arms:
            raise UserError("arms", f"two arms {name!r}", "a name for each")
        arms[name] = study.base
        for change in changes.split():
            arms[name] = _with_change(arms[name], change, f"arms: {name}")
    return arms


def _with_change(config: Config, change: str, where: str) -> Config:
    """Returns the config with one field changed."""
    field, equals, text = change.partition("=")
    values = values_by_name(config)
    if not equals or not field.startswith(_SECTIONS) or field == _OF_STUDY:
        wanted = "FIELD=VALUE with a field of model or optim, but optim.learning_rate"
        raise UserError(where, repr(change), wanted, "base and learning_rates have the fields that all arms share")
    if field not in values:
        raise UserError(f"{where}: {field}", "no such field", "a known one", did_you_mean(field, values))
    section, name = field.split(".")
    value = _parse(text, type(values[field]), f"{where}: {field}")
    return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **{name: value})})


def _parse(text: str, kind: type, where: str) -> Any:
    """Returns the value of a field of type `kind`."""
    try:
        return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError, OverflowError):
        raise UserError(where, repr(text), f"a value of type {kind.__name__}") from None
