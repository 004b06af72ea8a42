"""A program that writes a JSON list to stdout: for each Python file in its arguments, the text of its docstrings.

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
    """Returns the docstrings of a Python file, joined with blank lines, or "" if the file cannot be parsed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about escape sequences in the modules
        try:
            tree = ast.parse(Path(path).read_bytes())
        except (OSError, SyntaxError, ValueError, RecursionError):  # dangling links, templates, code for other versions
            return ""
    text = "\n\n".join(_docstrings_in(tree))
    return text.encode(errors="replace").decode()  # replaces half a surrogate pair, as from \ud800, by ?


def _docstrings_in(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    """Yields the docstring of `node`, then those of the definitions in its body, but not within an `if` or `try`."""
    if text := ast.get_docstring(node):
        yield text
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings_in(child)


if __name__ == "__main__":
    # Supervisors send SIGTERM to all processes. If this one died of it, the parent could report an error instead of
    # ending as usual. This process ends soon in any case.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # ends this process when it writes to a parent that has ended
    json.dump([docstrings(path) for path in sys.argv[1:]], sys.stdout)
