"""English that is on every machine: the language topics of `pydoc` and the docstrings of Python code."""

import ast
import contextlib
import multiprocessing
import os
import signal
import sysconfig
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

_NOT_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


def documents(*, installed: bool) -> Iterator[str]:
    """The topics, then one document for each module with docstrings, in the order of their paths.

    installed: whether the packages in site-packages follow the standard library (without its tests).
    Nothing is imported: the sources are parsed, on all cores.
    """
    from pydoc_data.topics import topics  # half a megabyte that only this function needs

    yield from (topics[name] for name in sorted(topics))
    paths = sysconfig.get_paths()
    modules = _modules(paths["stdlib"], without=_NOT_LIBRARY)
    if installed:
        for folder in sorted({paths["purelib"], paths["platlib"]}):
            modules += _modules(folder, without={"__pycache__"})
    # Spawned, not forked: this process has threads by now.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context, initializer=_end_with_parent) as pool:
        with _interrupts_blocked():  # for the workers: an interrupt from the keyboard reaches them too
            texts = pool.map(docstrings, modules, chunksize=16)  # few are under way when the run is stopped
        yield from filter(None, texts)


def docstrings(path: str) -> str:
    """The docstrings of one module, its classes and its functions, a blank line between them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's escape sequences
        try:
            tree = ast.parse(Path(path).read_bytes())
        except (OSError, SyntaxError, ValueError, RecursionError):  # dangling links, templates, another Python's
            return ""
    return "\n\n".join(_below(tree)).encode(errors="replace").decode()  # escapes can spell half a character


def _end_with_parent() -> None:
    """Ends this process when its parent is gone, killed or not. A pool alone does not: its workers wait for work."""

    def wait() -> None:
        multiprocessing.parent_process().join()  # type: ignore[union-attr]  # a worker has one
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """SIGINT waits; processes that start meanwhile never see it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _below(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    if text := ast.get_docstring(node):
        yield text
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _below(child)


def _modules(root: str, without: set[str]) -> list[str]:
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in without]
        found += [os.path.join(folder, name) for name in files if name.endswith(".py")]
    return sorted(found)
