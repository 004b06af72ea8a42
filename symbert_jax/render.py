"""Renders Markdown tables and plots for the reports of `compare` and `finetune`."""

import io
from collections.abc import Sequence

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

plt.rcParams["text.parse_math"] = False  # dollar signs in the name of a run enclose no formula


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
    figure.savefig(buffer, dpi=150)
    plt.close(figure)
    return buffer.getvalue()
