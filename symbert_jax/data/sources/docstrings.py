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
    """Returns the docstrings of a module, its classes and its functions, with a blank line between them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about escape sequences in the modules
        try:
            tree = ast.parse(Path(path).read_bytes())
        except (OSError, SyntaxError, ValueError, RecursionError):  # dangling links, templates, code for other versions
            return ""
    text = "\n\n".join(_docstrings_below(tree))
    return text.encode(errors="replace").decode()  # an escape can be half a surrogate pair


def _docstrings_below(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    if text := ast.get_docstring(node):
        yield text
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings_below(child)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # supervisors send it to all processes; this one ends soon
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # ends this process when its parent has ended
    json.dump([docstrings(path) for path in sys.argv[1:]], sys.stdout)
