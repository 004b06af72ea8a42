"""Sphinx builds the documentation site with this configuration; `make docs` calls it."""

import functools
import hashlib
import os
import sys
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS)]

import nbclient  # noqa: E402

from symbert_jax import __version__  # noqa: E402

project = "symbert_jax"
author = "The symbert_jax authors"
copyright = author
release = __version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
    "sphinx_design",
    "extensions.command_line",
    "extensions.config_fields",
    "extensions.docstrings",
]
exclude_patterns = ["_build", "requirements.txt"]
default_role = "code"  # of single backticks in docstrings
highlight_language = "none"  # of blocks that name no language, such as quoted output
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80
add_module_names = False

html_theme = "sphinx_book_theme"
html_title = "symbert_jax"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = False
html_theme_options = {
    "home_page_in_toc": True,
    "navbar_persistent": [],  # the sidebar has the search field
    "show_toc_level": 2,
    "use_download_button": False,
}
copybutton_exclude = ".linenos, .gp, .go"


def _source_hash() -> str:
    """Returns a hash of everything that the output of a notebook depends on, apart from the notebook itself."""
    files = [path for folder in ("symbert_jax", "configs") for path in sorted((ROOT / folder).rglob("*.py"))]
    contents = (path.read_bytes() for path in (*files, ROOT / "requirements.txt"))
    return hashlib.sha256(b"\0".join(contents)).hexdigest()[:16]


# Notebooks run in a temporary folder. They run again if they, the package or its requirements have changed.
nb_execution_mode = "cache"
nb_execution_cache_path = str(DOCS / "_build" / "notebooks" / _source_hash())
nb_execution_timeout = 1800  # seconds for a cell
nb_execution_raise_on_error = True
nb_execution_in_temp = True
# The output of a shell command arrives in pieces that end within lines. This joins them; myst-nb would break the lines.
nbclient.NotebookClient.__init__ = functools.partialmethod(  # type: ignore[method-assign,assignment,unused-ignore]
    nbclient.NotebookClient.__init__, coalesce_streams=True
)
# The notebooks have no widgets, whose scripts would come from another server.
nb_ipywidgets_js: dict[str, dict[str, str]] = {}
# The kernel and the shell commands of the notebooks use this environment and this checkout.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
os.environ["PYTHONPATH"] = str(ROOT)
