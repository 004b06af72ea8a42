"""Reads the fields of a parsed `config.json`; every error names the file as `where`."""

import math
import reprlib
from collections.abc import Mapping
from typing import Any

from symbert_jax.errors import UserError

# The fields of `config.json` that BERT and ModernBERT share, by fields of `ModelConfig`.
SIZES = {
    "vocab_size": "vocab_size",
    "layers": "num_hidden_layers",
    "dim": "hidden_size",
    "heads": "num_attention_heads",
    "mlp_dim": "intermediate_size",
    "length": "max_position_embeddings",
}


def check_constants(config: Mapping[str, Any], constants: Mapping[str, Any], where: str) -> None:
    """Raises `UserError` if a field has another value than its only supported one. A field may be missing or null."""
    for field, value in constants.items():
        found = config.get(field)
        if found is not None and (found != value or isinstance(found, bool) != isinstance(value, bool)):
            raise UserError(where, f"{field} {reprlib.repr(found)}", f"{value!r}, the only value that is supported")


def to_int(config: Mapping[str, Any], name: str, where: str) -> int:
    """Returns a field as an integer; some programs write 12 as 12.0."""
    value = config[name]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > 1 << 63:
        raise UserError(where, f"{name} {reprlib.repr(config[name])}", "a whole number")
    return value


def to_fraction(config: Mapping[str, Any], name: str, where: str) -> float:
    """Returns a field as a fraction, at least 0 and below 1."""
    value = config[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise UserError(where, f"{name} {reprlib.repr(value)}", "a fraction of at least 0 and below 1")
    return float(value)


def to_positive(config: Mapping[str, Any], name: str, where: str) -> float:
    """Returns a field as a positive number."""
    value = config[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UserError(where, f"{name} {reprlib.repr(value)}", "a positive number")
    return float(value)
