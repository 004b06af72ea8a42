"""Renders tables, plots and pages for the reports of `compare`, `finetune` and `prepare`."""

import io
import re
import warnings
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

plt.rcParams["text.parse_math"] = False  # dollar signs in the name of a run enclose no formula

_INK = "#010203"  # stands for the colour of the text of a page, which may be dark or light
# For plots that `to_svg` renders: text and axes have the colour of the text around the plot.
PAGE_STYLE: Any = dict.fromkeys(
    ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"), _INK
)
PAGE_STYLE["grid.alpha"] = 0.12


_CSS = """
:root { color-scheme: light dark; --faint: color-mix(in srgb, currentColor 18%, transparent) }
body { max-width: 70rem; margin: 0 auto; padding: 0 1rem 3rem; background: Canvas; color: CanvasText;
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.6rem; margin: 1.5rem 0 .5rem }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem }
.legend { position: sticky; top: 0; display: flex; flex-wrap: wrap; gap: 0 1.2rem; max-height: 25vh; overflow: auto;
  margin: 0 -1rem; padding: .4rem 1rem; background: Canvas; border-bottom: 1px solid var(--faint);
  list-style: none; font-size: .9rem }
.legend svg { width: 2rem; height: .6rem; margin-right: .4rem }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1.5rem 2rem }
figure { margin: 0; max-width: 38rem }
figcaption { font-weight: 600 }
.wide { max-width: none; overflow-x: auto }
.wide svg { min-width: 44rem }
figure svg { display: block; width: 100%; height: auto }
figure text { font-family: system-ui, sans-serif !important }
.table { overflow-x: auto; margin: .5rem 0 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal }
th, td { padding: .3rem 1.2rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--faint) }
.numbers :is(th, td):not(:first-child) { text-align: right; white-space: nowrap }
.numbers :is(th, td):first-child { min-width: 7rem }
blockquote { margin: 1.5rem 0 .5rem; font-weight: 600 }
"""


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table with escaped pipes in its cells."""
    lines = ([cell.replace("|", "\\|") for cell in cells] for cells in [head, ["---"] * len(head), *rows])
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def html_page(title: str, parts: Iterable[str]) -> str:
    """Returns a page of HTML that loads nothing else.

    parts: the elements of its body.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_CSS}</style>\n" + "\n".join(parts) + "\n</html>\n"
    )


def html_table(head: Iterable[str], rows: Iterable[Iterable[str]], kind: str = "") -> str:
    """Returns a table of HTML with escaped cells. The kind `numbers` aligns all columns but the first to the right."""
    lines = "\n".join([_html_row("th", head), *(_html_row("td", row) for row in rows)])
    return f'<div class="table"><table class="{kind}">\n{lines}\n</table></div>'


def _html_row(tag: str, cells: Iterable[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"


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
