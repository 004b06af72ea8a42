"""User-facing errors: the field, what was found, what was expected, and a hint."""

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """A mistake that the user can correct, reported in one line: `WHAT: found FOUND, wanted WANTED; HINT`."""

    exit_code = 2

    def __init__(self, what: str, found: str, wanted: str, hint: str = ""):
        self.what, self.found, self.wanted, self.hint = what, found, wanted, hint
        line = f"{what}: found {found}, wanted {wanted}" + (f"; {hint}" if hint else "")
        super().__init__(printable(line))

    def __reduce__(self) -> tuple[type["UserError"], tuple[str, str, str, str]]:
        """Makes the error picklable, so that a worker process can raise it."""
        return type(self), (self.what, self.found, self.wanted, self.hint)


class Advice(UserError):
    """A warning: the run works, but probably not as the user meant it."""


class UserErrors(UserError):
    """Several errors, one line each. The exit code is the highest of their exit codes."""

    def __init__(self, errors: Sequence[UserError]):
        Exception.__init__(self, "\n".join(map(str, errors)))
        self.exit_code = max(error.exit_code for error in errors)


def printable(text: str) -> str:
    """Escapes what `str.isprintable` refuses, such as line ends, control characters and lone surrogates."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def spelling_hint(name: str, known: Iterable[str]) -> str:
    """Returns a hint for a misspelled name: the closest known name, or an empty string if none is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns a hint for a misspelled name: the closest known name, or all known names if none is close."""
    return spelling_hint(name, known) or f"known are {', '.join(known)}"
