"""What a mistake of the user's is told as: what it is about, what was found, what was wanted, how to mend it."""

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """A mistake only the user can mend: what it is about, what was found, what was wanted, how to mend it."""

    exit_code = 2

    def __init__(self, what: str, found: str, wanted: str, mend: str = ""):
        self.what = what
        super().__init__(f"{what}: found {found}, wanted {wanted}" + (f"; {mend}" if mend else ""))


class UserErrors(UserError):
    """Several of them, a line each."""

    def __init__(self, errors: Sequence[UserError]):
        Exception.__init__(self, "\n".join(map(str, errors)))
        self.exit_code = max(error.exit_code for error in errors)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
