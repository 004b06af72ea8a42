"""Renders Markdown tables and plots for the reports of `compare` and `finetune`."""

import io
import re
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

plt.rcParams["text.parse_math"] = False  # dollar signs in the name of a run enclose no formula

_INK = "#010203"  # stands for the colour of the text of a page, which may be dark or light
# For plots that `to_svg` renders: text and axes have the colour of the text around the plot.
PAGE_STYLE: Any = dict.fromkeys(("text.color", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), _INK)
PAGE_STYLE["grid.alpha"] = 0.12


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table with escaped pipes in its cells."""
    lines = ([cell.replace("|", "\\|") for cell in cells] for cells in [head, ["---"] * len(head), *rows])
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def legend_label(text: str) -> str:
    """Returns the text with a space in front: legends omit labels that begin with an underscore."""
    return f" {text}"


def to_png(figure: plt.Figure) -> bytes:
    """Returns the figure as a PNG file, and closes it."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a box takes its place
        figure.savefig(buffer, dpi=150)
    plt.close(figure)
    return buffer.getvalue()


def to_svg(figure: plt.Figure, salt: str) -> str:
    """Returns the figure as an element for a page of HTML, and closes it.

    salt: a text that no other figure of the page has, so that ids are unique.
    """
    buffer = io.StringIO()
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    plt.close(figure)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    return re.sub(r'<g id="[^"]*">', "<g>", svg)  # nothing refers to groups, which have the same ids in every figure
