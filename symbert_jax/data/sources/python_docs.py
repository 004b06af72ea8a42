"""English that every Python installation has: the language topics of `pydoc` and the docstrings of Python code."""

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from symbert_jax.data.sources import docstrings
from symbert_jax.errors import UserError

_CHUNK = 64  # modules that one process parses, in a fraction of a second
# Folders below that of the standard library whose modules are tests, installed packages or compiled.
_NOT_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


def documents(packages: Sequence[str] | None = None) -> Iterator[str]:
    """Yields the topics, then one document for each module with docstrings, in the order of their paths.

    The modules are parsed on all cores, and not imported. The tests of the standard library are always left out.

    packages: the installed packages to add after the standard library, by the names under which they are imported;
      None: all.

    Raises:
      UserError: in the iteration, if a package is not installed.
    """
    from pydoc_data.topics import topics  # imported here: half a megabyte that nothing else needs

    paths = sysconfig.get_paths()
    folders = sorted({paths["purelib"], paths["platlib"]})
    if packages is not None:
        folders = [_package_folder(name, folders) for name in packages]
    yield from (topics[name] for name in sorted(topics))
    modules = _modules(paths["stdlib"], without=_NOT_LIBRARY)
    for folder in folders:
        modules += _modules(folder, without={"__pycache__"})
    chunks = [modules[start : start + _CHUNK] for start in range(0, len(modules), _CHUNK)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for texts in pool.map(_parse, chunks):
                yield from filter(None, texts)
        finally:
            pool.shutdown(cancel_futures=True)


def _parse(paths: list[str]) -> list[str]:
    """Returns the docstrings of each module, parsed by another process.

    `multiprocessing` is not used: its workers would outlive a run that is killed, and if one worker were killed, the
    others would wait for a lock forever.
    """
    command = [sys.executable, "-P", "-S", docstrings.__file__, *paths]
    # Ctrl-C in the terminal does not interrupt the process, because it has a process group of its own.
    process = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, process_group=0)
    if process.returncode:
        found = f"python-docs: exit code {process.returncode} of a process that parses modules"
        raise UserError("data.sources", found, "exit code 0", "the process may have been killed because memory ran out")
    texts: list[str] = json.loads(process.stdout)
    return texts


def _package_folder(name: str, folders: list[str]) -> str:
    for folder in folders:
        if os.path.isfile(os.path.join(folder, name, "__init__.py")):
            return os.path.join(folder, name)
    raise UserError("data.sources", f"no package {name!r}", "a package that is installed", f"pip install {name}")


def _modules(root: str, without: set[str]) -> list[str]:
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in without]
        found += [os.path.join(folder, name) for name in files if name.endswith(".py")]
    return sorted(found)
