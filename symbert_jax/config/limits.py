"""Limits of config fields, declared with the type of the field: `Annotated[int, Range(1)]`."""

import math
from typing import Annotated, Any, NamedTuple, Protocol

from symbert_jax.errors import UserError, spelling_hint

_INT32_MAX = 2**31 - 1  # JAX counts in int32


class Limit(Protocol):
    """What the value of a field must satisfy, in addition to its type. `str(limit)` says it in words."""

    def problem(self, field: str, value: Any) -> UserError | None:
        """Returns an error that names the field if the value is outside the limit, else None."""


class Choice(NamedTuple):
    """The value is one of the `known` strings. Errors and help do not list an empty string among them."""

    known: tuple[str, ...]

    def problem(self, field: str, value: str) -> UserError | None:
        if value in self.known:
            return None
        return UserError(field, repr(value), str(self), spelling_hint(value, self.known))

    def __str__(self) -> str:
        return f"one of {', '.join(filter(None, self.known))}"


class Range(NamedTuple):
    """The value is an integer from `least` to `most`, both included."""

    least: int
    most: int = _INT32_MAX
    why: str = ""  # the reason for `most`, the hint in the error about a larger value

    def problem(self, field: str, value: int) -> UserError | None:
        if value < self.least:
            return UserError(field, str(value), f"at least {self.least}")
        if value > self.most:
            # Long numbers are shortened. Numbers beyond every float cannot be formatted with `.3g`.
            found = str(value) if value <= 1e15 else f"{value:.3g}" if value < 1e308 else f"{len(str(value))} digits"
            return UserError(field, found, f"at most {self.most}", self.why)
        return None

    def __str__(self) -> str:
        return f"from {self.least} to {self.most:,}" if self.most < _INT32_MAX else f"at least {self.least}"


class Real(NamedTuple):
    """The value is a real number of at least 0 and below `end`; NaN is refused."""

    end: float
    wanted: str  # the limit in words, for errors

    def problem(self, field: str, value: float) -> UserError | None:
        return None if 0 <= value < self.end else UserError(field, str(value), self.wanted)

    def __str__(self) -> str:
        return self.wanted


class Not(NamedTuple):
    """The value is any number but `refused`."""

    refused: int
    wanted: str  # the limit in words, for errors

    def problem(self, field: str, value: int | float) -> UserError | None:
        return UserError(field, str(value), self.wanted) if value == self.refused else None

    def __str__(self) -> str:
        return self.wanted


class AtMost(NamedTuple):
    """The value is a real number from 0 to `most`, both included; NaN is refused."""

    most: float

    def problem(self, field: str, value: float) -> UserError | None:
        return None if 0 <= value <= self.most else UserError(field, str(value), str(self))

    def __str__(self) -> str:
        return f"a number from 0 to {self.most:g}"


Count = Annotated[int, Range(1)]
Index = Annotated[int, Range(0)]
Size = Annotated[int, Range(1, 2**20)]  # the length of an array dimension, or a number of rows or micro-batches
Fraction = Annotated[float, Real(1.0, "a fraction of at least 0 and below 1")]
Share = Annotated[float, AtMost(1.0)]
Amount = Annotated[float, Real(math.inf, "a finite number of at least 0")]
PositiveAmount = Annotated[Amount, Not(0, "a finite number above 0")]
