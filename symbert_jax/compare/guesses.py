"""The tokens that models predict for the [MASK]s of texts."""

from collections.abc import Sequence
from typing import NamedTuple

from etils import epath

from symbert_jax.inference import Guess, load

NUM_GUESSES = 5  # tokens for each [MASK]


class FilledText(NamedTuple):
    text: str
    guesses: list[list[str]]  # by run, for each [MASK]: the most probable tokens, in one string


def fill_texts(texts: Sequence[str], workdirs: Sequence[epath.Path]) -> list[FilledText]:
    """Returns what the latest checkpoint of every run predicts for the [MASK]s of every text.

    Raises:
      UserError: a run has no checkpoint, or a text cannot be filled.
    """
    models = [load(workdir) for workdir in workdirs] if texts else []
    return [FilledText(text, [[*map(_join, model.fill_mask(text, NUM_GUESSES))] for model in models]) for text in texts]


def format_guesses(filled: FilledText, names: Sequence[str]) -> str:
    """Returns the text and the predictions of every run, of which `names` are the names, as a Markdown list."""
    lines = [f"- {name}: {' | '.join(guesses)}\n" for name, guesses in zip(names, filled.guesses, strict=True)]
    return f"> {filled.text}\n\n{''.join(lines)}"


def _join(guesses: list[Guess]) -> str:
    return "; ".join(f"{token} {probability:.0%}" for token, probability in guesses)
