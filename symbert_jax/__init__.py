"""BERT with standard, symmetric and pairwise self-attention, pretrained in JAX (arXiv 2406.06366)."""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["load"]

_HOMES = {"load": "checkpoint"}


def __getattr__(name: str) -> Any:
    """Imports a public name on first use: importing the package alone must not start JAX."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
