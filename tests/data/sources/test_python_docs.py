"""`python-docs` yields the topics of `pydoc`, then the docstrings of each module."""

from pathlib import Path

import pytest

from symbert_jax.data.sources import python_docs
from symbert_jax.errors import UserError
from tests.data.sources.conftest import read

NESTED = '''"""B."""
class C:
    """C

       of b."""
    def f(self):
        "f of C"
        def g():
            "g of f"
'''


def test_python_docs_yield_topics_then_docstrings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`library` takes the place of the standard library, `installed` that of site-packages."""
    library, installed = tmp_path / "library", tmp_path / "installed"
    for path, text in {
        library / "b.py": NESTED,
        library / "a.py": 'async def h():\n    """h \\d of a"""\nif True:\n    def hidden(): "not walked"',
        library / "nothing.py": "x = 1",
        library / "broken.py": "'''so",
        library / "test" / "t.py": '"""a test"""',
        library / "site-packages" / "s.py": '"""elsewhere"""',
        installed / "half.py": '"""half \\ud800"""',
        installed / "package" / "__init__.py": '"""a package"""',
        installed / "tests" / "p.py": '"""p"""',
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    paths = {"stdlib": str(library), "purelib": str(installed), "platlib": str(installed)}
    monkeypatch.setattr(python_docs.sysconfig, "get_paths", lambda: paths)
    standard, everything = read("python-docs:stdlib"), read("python-docs")
    modules = ["h \\d of a", "B.\n\nC\n\nof b.\n\nf of C\n\ng of f"]
    assert standard[-2:] == modules
    assert any("assert" in topic and len(topic) > 500 for topic in standard[:-2])
    assert everything == [*standard, "half ?", "a package", "p"]
    assert read("python-docs:stdlib+package") == [*standard, "a package"], "of the installed packages, only the named"
    with pytest.raises(
        UserError, match="found no package 'half', wanted a package that is installed; pip install half"
    ):
        read("python-docs:stdlib+package+half")
