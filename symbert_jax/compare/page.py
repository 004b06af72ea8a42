"""report.html: the table, plots, predictions and configs of runs, in one file that loads nothing."""

from collections.abc import Sequence
from html import escape

from symbert_jax.compare.attention import plot_attention
from symbert_jax.compare.differences import differing_fields, shared_fields
from symbert_jax.compare.guesses import FilledText
from symbert_jax.compare.plots import (
    Line,
    Plot,
    average_line,
    average_name,
    loss_plots,
    reference_lines,
    run_lines,
    training_plots,
)
from symbert_jax.compare.reference import Reference
from symbert_jax.compare.runs import RunCurve
from symbert_jax.render import html_page, html_table


def format_page(
    runs: list[RunCurve],
    table: tuple[Sequence[str], Sequence[Sequence[str]]],
    filled: Sequence[FilledText],
    reference: Reference | None,
) -> str:
    """Returns the page.

    table: the head and the rows of the table of runs.
    filled: texts with the predictions of each run.
    """
    title = f"Run {runs[0].name}" if len(runs) == 1 else f"Comparison of {len(runs)} runs"
    parts = [
        f"<h1>{escape(title)}</h1>",
        _legend(runs, reference),
        html_table(*table, kind="numbers"),
        "<h2>Loss</h2>",
        f"<p>Curves marked ({escape(reference.name)}): {escape(reference.title)}.</p>" if reference else "",
        _plots(loss_plots(runs, reference)),
        "<h2>Optimization and speed</h2>" if (plots := training_plots(runs)) else "",
        _plots(plots),
        *(_attention(attention) if (attention := plot_attention(runs)) else ()),
        "<h2>Predictions</h2>" if filled else "",
        *(_predictions(text, runs) for text in filled),
        "<h2>Configs</h2>",
        _configs(runs),
    ]
    return html_page(title, filter(None, parts))


def _legend(runs: Sequence[RunCurve], reference: Reference | None) -> str:
    """Returns the names of all curves, each with its line."""
    entries = []
    for run, line in zip(runs, run_lines(runs), strict=True):
        entries.append((run.name, line))
        if run.average_losses:
            entries.append((average_name(run), average_line(line)))
    if reference:
        entries += zip(reference.labels, reference_lines(reference, runs), strict=True)
    items = "\n".join(f"<li>{_sample(line)}{escape(name)}</li>" for name, line in entries)
    return f'<ul class="legend">\n{items}\n</ul>'


def _sample(line: Line) -> str:
    dashes = " ".join(f"{length * line.width:g}" for length in line.dashes) or "none"
    return (
        '<svg viewBox="0 0 32 10" aria-hidden="true">'
        f'<path d="M0 5H32" stroke="{line.color}" stroke-width="{line.width:g}" stroke-dasharray="{dashes}"/></svg>'
    )


def _plots(plots: Sequence[Plot]) -> str:
    return f'<div class="plots">\n{"".join(map(_figure, plots))}</div>' if plots else ""


def _attention(plot: Plot) -> list[str]:
    text = "Each value is an average over the heads of a layer, on the same few validation rows at every validation."
    return ["<h2>Attention</h2>", f"<p>{text}</p>", _figure(plot, kind="wide")]


def _figure(plot: Plot, kind: str = "") -> str:
    caption = f"<figcaption>{escape(plot.title)}</figcaption>"
    return f'<figure class="{kind}">\n{caption}\n{plot.svg}</figure>\n'


def _predictions(filled: FilledText, runs: Sequence[RunCurve]) -> str:
    """Returns a text, and a table with a row per run and a column per [MASK] of the text."""
    rows = [[run.name, *guesses] for run, guesses in zip(runs, filled.guesses, strict=True)]
    num_masks = len(filled.guesses[0])
    head = ["run", *(f"[MASK] {number}" for number in range(1, num_masks + 1))] if num_masks > 1 else ["run", "[MASK]"]
    return f"<blockquote>{escape(filled.text)}</blockquote>\n{html_table(head, rows)}"


def _configs(runs: list[RunCurve]) -> str:
    """Returns the fields in which the runs differ, and those in which all differ from the defaults."""
    parts = []
    if len(runs) > 1:
        rows = [[field, *values] for field, values in differing_fields(runs).items()]
        parts += ["<h3>Fields in which the runs differ</h3>"]
        head = ["field", *(run.name for run in runs)]
        parts += [html_table(head, rows) if rows else "<p>All fields are the same.</p>"]
    shared = [*shared_fields(runs).items()]
    which = "Fields" if len(runs) == 1 else "Fields with the same value in all runs"
    parts += [f"<h3>{which} that differ from the paper's recipe for BERT-base</h3>"]
    parts += [html_table(["field", "value"], shared) if shared else "<p>There are none.</p>"]
    return "\n".join(parts)
