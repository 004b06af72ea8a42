"""report.html: the table, plots, predictions and configs of runs, in one file that loads nothing."""

from collections.abc import Iterable, Sequence
from html import escape

from symbert_jax.compare.differences import differing_fields, shared_fields
from symbert_jax.compare.guesses import FilledText
from symbert_jax.compare.plots import Line, Plot, loss_plots, reference_lines, run_lines, training_plots
from symbert_jax.compare.reference import Reference
from symbert_jax.compare.runs import RunCurve

STYLE = """
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
figure svg { display: block; width: 100%; height: auto }
figure text { font-family: system-ui, sans-serif !important }
.table { overflow-x: auto; margin: .5rem 0 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal }
th, td { padding: .3rem 1.2rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--faint) }
.numbers :is(th, td):not(:first-child) { text-align: right; white-space: nowrap }
.numbers :is(th, td):first-child { min-width: 7rem }
blockquote { margin: 1.5rem 0 .5rem; font-weight: 600 }
"""


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
        _table(*table, kind="numbers"),
        "<h2>Loss</h2>",
        f"<p>Curves marked ({escape(reference.name)}): {escape(reference.title)}.</p>" if reference else "",
        _plots(loss_plots(runs, reference)),
        "<h2>Optimization and speed</h2>" if (plots := training_plots(runs)) else "",
        _plots(plots),
        "<h2>Predictions</h2>" if filled else "",
        *(_predictions(text, runs) for text in filled),
        "<h2>Configs</h2>",
        _configs(runs),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n" + "\n".join(filter(None, parts)) + "\n</html>\n"
    )


def _legend(runs: Sequence[RunCurve], reference: Reference | None) -> str:
    """Returns the names of all curves, each with its line."""
    entries = [*zip((run.name for run in runs), run_lines(runs), strict=True)]
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
    figures = "".join(
        f"<figure>\n<figcaption>{escape(plot.title)}</figcaption>\n{plot.svg}</figure>\n" for plot in plots
    )
    return f'<div class="plots">\n{figures}</div>' if plots else ""


def _predictions(filled: FilledText, runs: Sequence[RunCurve]) -> str:
    """Returns a text, and a table with a row per run and a column per [MASK] of the text."""
    rows = [[run.name, *guesses] for run, guesses in zip(runs, filled.guesses, strict=True)]
    num_masks = len(filled.guesses[0])
    head = ["run", *(f"[MASK] {number}" for number in range(1, num_masks + 1))] if num_masks > 1 else ["run", "[MASK]"]
    return f"<blockquote>{escape(filled.text)}</blockquote>\n{_table(head, rows)}"


def _configs(runs: list[RunCurve]) -> str:
    """Returns the fields in which the runs differ, and those in which all differ from the defaults."""
    parts = []
    if len(runs) > 1:
        rows = [[field, *values] for field, values in differing_fields(runs).items()]
        parts += ["<h3>Fields in which the runs differ</h3>"]
        parts += [_table(["field", *(run.name for run in runs)], rows) if rows else "<p>All fields are the same.</p>"]
    shared = [*shared_fields(runs).items()]
    which = "Fields" if len(runs) == 1 else "Fields with the same value in all runs"
    parts += [f"<h3>{which} that differ from the paper's recipe for BERT-base</h3>"]
    parts += [_table(["field", "value"], shared) if shared else "<p>There are none.</p>"]
    return "\n".join(parts)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]], kind: str = "") -> str:
    lines = "\n".join([_row("th", head), *(_row("td", row) for row in rows)])
    return f'<div class="table"><table class="{kind}">\n{lines}\n</table></div>'


def _row(tag: str, cells: Iterable[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"
