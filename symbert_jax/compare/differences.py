"""The fields of configs: those that differ between runs, and those that runs share."""

from typing import Any

from symbert_jax import config as configs
from symbert_jax.compare.runs import RunCurve
from symbert_jax.config import Config
from symbert_jax.errors import printable


def differing_fields(runs: list[RunCurve]) -> dict[str, list[str]]:
    """Returns the value of each run, by field, of the fields whose values are not the same in all runs."""
    return {field: values for field, values in _values(runs).items() if len(set(values)) > 1}


def shared_fields(runs: list[RunCurve]) -> dict[str, str]:
    """Returns the value that all runs share, by field, if it differs from that of the paper's recipe for BERT-base."""
    defaults = configs.values_by_name(Config())
    return {
        field: values[0]
        for field, values in _values(runs).items()
        if len(set(values)) == 1 and values[0] != _text(defaults[field])
    }


def _values(runs: list[RunCurve]) -> dict[str, list[str]]:
    columns = [configs.values_by_name(run.config) for run in runs]
    return {field: [_text(column[field]) for column in columns] for field in columns[0]}


def _text(value: Any) -> str:
    """Returns a value as the command line writes it, except for the quotes of a list."""
    return printable(",".join(map(str, value)) if isinstance(value, tuple) else str(value))
