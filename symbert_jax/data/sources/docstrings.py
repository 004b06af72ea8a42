"""A program that writes the docstrings of the given Python modules to stdout, as a JSON list.

It imports the standard library only, so that it starts at once.
"""

import ast
import json
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path


def docstrings(path: str) -> str:
    """Returns the docstrings of a module, its classes and its functions, with a blank line between them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's escape sequences
        try:
            tree = ast.parse(Path(path).read_bytes())
        except (OSError, SyntaxError, ValueError, RecursionError):  # dangling links, templates, code for another Python
            return ""
    return "\n\n".join(_below(tree)).encode(errors="replace").decode()  # escapes can spell half a character


def _below(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    if text := ast.get_docstring(node):
        yield text
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _below(child)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a supervisor sends it to all processes; this one ends soon anyway
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # raised when the parent is gone
    json.dump([docstrings(path) for path in sys.argv[1:]], sys.stdout)
