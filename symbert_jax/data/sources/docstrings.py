"""A program that writes the docstrings of the given Python modules to stdout, as a JSON list.

It imports only the standard library, so that it starts fast.
"""

import ast
import json
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path


def docstrings(path: str) -> str:
    """Returns the docstrings of a module and of the classes and functions in it, with blank lines between them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about escape sequences in the modules
        try:
            tree = ast.parse(Path(path).read_bytes())
        except (OSError, SyntaxError, ValueError, RecursionError):  # dangling links, templates, code for other versions
            return ""
    text = "\n\n".join(_docstrings_in(tree))
    return text.encode(errors="replace").decode()  # an escape such as \ud800 can be half a surrogate pair


def _docstrings_in(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    """Yields the docstring of `node` and those of the definitions in its body, except in an `if` or `try`."""
    if text := ast.get_docstring(node):
        yield text
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings_in(child)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # supervisors send it to all processes; this one ends soon
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # ends this process when it writes to a parent that has ended
    json.dump([docstrings(path) for path in sys.argv[1:]], sys.stdout)
