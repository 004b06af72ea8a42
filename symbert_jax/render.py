"""Markdown tables and plots, as `compare` and `finetune` write them."""

import io
from collections.abc import Sequence

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

plt.rcParams["text.parse_math"] = False  # a path may hold dollar signs


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ([cell.replace("|", "\\|") for cell in cells] for cells in [head, ["---"] * len(head), *rows])
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def legend_label(text: str) -> str:
    """A label as legends show it: they leave out one that begins with an underscore."""
    return f" {text}"


def png(figure: plt.Figure) -> bytes:
    """The figure as a PNG file; closes it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=150)
    plt.close(figure)
    return buffer.getvalue()
