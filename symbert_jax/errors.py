"""User-facing errors: the field, what was found, what was expected, and a hint."""

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """A mistake that only the user can correct, told in one line."""

    exit_code = 2

    def __init__(self, what: str, found: str, wanted: str, hint: str = ""):
        self.what, self.found, self.wanted, self.hint = what, found, wanted, hint
        line = f"{what}: found {found}, wanted {wanted}" + (f"; {hint}" if hint else "")
        super().__init__(printable(line))


class Advice(UserError):
    """What works but is seldom meant: a warning."""


class UserErrors(UserError):
    """Several of them, a line each."""

    def __init__(self, errors: Sequence[UserError]):
        Exception.__init__(self, "\n".join(map(str, errors)))
        self.exit_code = max(error.exit_code for error in errors)


def printable(text: str) -> str:
    """A text with escapes for what no terminal prints: line ends, control characters, half a surrogate pair."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def closest(name: str, known: Iterable[str]) -> str:
    """The hint for a misspelled name, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The hint for a misspelled name: the closest known one, or all of them."""
    return closest(name, known) or f"known are {', '.join(known)}"
