"""All fields of a config: values, limits and comments by dotted name."""

import ast
import dataclasses
import functools
import inspect
import sys
import typing
from collections.abc import Iterator
from itertools import takewhile
from typing import Any, NamedTuple

from symbert_jax.config.limits import Limit


class Field(NamedTuple):
    """A field of a config that is not itself a section of fields."""

    name: str  # dotted, as after `--config.` in a flag
    value: Any
    limits: tuple[Limit, ...]  # they apply to the value or, if it is a tuple, to each item
    section: type  # the dataclass that declares it

    @property
    def comment(self) -> str:
        """The comment in the source, above the declaration of the field or at the end of its line."""
        return field_comments(self.section)[self.name.rpartition(".")[2]]


def walk(config: Any, prefix: str = "") -> Iterator[Field]:
    """Yields the fields of nested dataclasses, with `prefix` before their names."""
    types = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        name, value, kind = prefix + field.name, getattr(config, field.name), types[field.name]
        if dataclasses.is_dataclass(value):
            yield from walk(value, f"{name}.")
        else:
            kind = typing.get_args(kind)[0] if isinstance(value, tuple) else kind
            yield Field(name, value, getattr(kind, "__metadata__", ()), type(config))


def values_by_name(config: Any) -> dict[str, Any]:
    """Returns the value of every field by its dotted name."""
    return {field.name: field.value for field in walk(config)}


@functools.cache
def field_comments(section: type) -> dict[str, str]:
    """Returns the comment of each field of a dataclass or named tuple, by its name, from the source of its module."""
    source = inspect.getsource(sys.modules[section.__module__])
    lines, classes = source.splitlines(), [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    (declaration,) = (node for node in classes if node.name == section.__name__)
    comments = {}
    for field in declaration.body:
        if isinstance(field, ast.AnnAssign):
            above = takewhile(lambda line: line.lstrip().startswith("#"), reversed(lines[: field.lineno - 1]))
            at_end = lines[(field.end_lineno or 0) - 1].encode()[field.end_col_offset :].decode()
            comment = " ".join(line.strip(" #") for line in (*reversed([*above]), at_end))
            comments[ast.unparse(field.target)] = comment.strip()
    return comments
