"""BERT with standard, symmetric and pairwise self-attention, pretrained in JAX (arXiv 2406.06366)."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """`load` on first use: importing the package alone must not start JAX."""
    if name == "load":
        from symbert_jax.checkpoint import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
