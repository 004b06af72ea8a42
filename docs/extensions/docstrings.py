"""Docstrings of the package as reStructuredText: parameters and errors become field lists, indented lines become code.

Returns the sum of two numbers.

    add(1, 2)  # 3

a, b: finite numbers.

Raises:
  UserError: a number is not finite.
"""

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from sphinx.application import Sphinx

from symbert_jax.config import field_comments

_PARAMETERS = re.compile(r"(\w+(?:, \w+)*): (.*)", re.DOTALL)
_CODE_INDENT = " " * 4


def to_rst(docstring: str, parameters: Iterable[str]) -> str:
    """Returns a docstring as reStructuredText.

    parameters: the names of the parameters; a line that begins with other words and a colon is ordinary text.
    """
    return "\n".join(line for block in docstring.split("\n\n") for line in (*_block(block, set(parameters)), ""))


def _block(block: str, parameters: set[str]) -> Iterator[str]:
    """Yields the lines of a block between empty lines."""
    lines = block.strip("\n").splitlines()
    if not lines:
        return
    if lines[0].startswith(_CODE_INDENT):
        yield from (".. code-block:: python", "", *lines)
    elif lines[0] == "Raises:":
        for entry in _entries(textwrap.dedent("\n".join(lines[1:])).splitlines()):
            yield f":raises {entry}"
    else:
        for entry in _entries(lines):
            match = _PARAMETERS.fullmatch(entry)
            if match and set(match[1].split(", ")) <= parameters:
                yield from (f":param {name}: {match[2]}" for name in match[1].split(", "))
            else:
                yield entry


def _entries(lines: list[str]) -> Iterator[str]:
    """Joins lines to entries: a line with a name and a colon, or without one before, begins an entry."""
    entry = ""
    for line in lines:
        if entry and _PARAMETERS.fullmatch(line):
            yield entry
            entry = ""
        entry = f"{entry} {line.strip()}".strip()
    if entry:
        yield entry


def fields(kind: type) -> Iterator[str]:
    """Yields the fields of a dataclass or named tuple with their comments, as a field list."""
    for name, comment in field_comments(kind).items():
        annotation = inspect.formatannotation(inspect.get_annotations(kind)[name])
        yield f":ivar {name}: {comment}"
        yield f":vartype {name}: {re.sub(r'(?:[a-z_]+[.])+', '', annotation)}"  # without modules


def _process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Replaces the lines of a docstring; Sphinx calls it for each documented object."""
    parameters = [] if what in ("module", "attribute", "property") else inspect.signature(obj).parameters
    lines[:] = to_rst("\n".join(lines), parameters).splitlines()
    if what == "class" and _has_fields(obj):
        lines += ["", *fields(obj), ""]


def _process_signature(app: Sphinx, what: str, name: str, obj: Any, *rest: Any) -> tuple[str, None] | None:
    """Hides the signature of a class with fields, which repeats them."""
    return ("", None) if what == "class" and _has_fields(obj) else None


def _has_fields(kind: type) -> bool:
    """Returns whether a class is a dataclass or a named tuple."""
    return dataclasses.is_dataclass(kind) or hasattr(kind, "_fields")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", _process)
    app.connect("autodoc-process-signature", _process_signature)
    return {"parallel_read_safe": True}
