"""The command `compare`."""

from etils import epath

from symbert_jax import render
from symbert_jax.compare import page, plots
from symbert_jax.compare.guesses import fill_texts, format_guesses
from symbert_jax.compare.reference import read_reference
from symbert_jax.compare.runs import read_run, unique_names
from symbert_jax.compare.table import table_cells
from symbert_jax.errors import UserError
from symbert_jax.storage import absolute, bucket_errors_as_user_errors, write_whole


def compare(workdirs: list[epath.Path], out: epath.Path, texts: list[str], reference: str | None = None) -> None:
    """Writes `report.html`, `loss.png` and `table.md` about the runs to `out`, and prints the table.

    workdirs: the workdirs of the runs; one that is given twice counts once.
    texts: texts with [MASK]; the most probable tokens of every run for each [MASK] are added below the table.
    reference: validation losses to draw with those of the runs, as `reference.read_reference` takes them.

    Raises:
      UserError: a workdir has no validation loss, a text cannot be filled, the reference cannot be read, or `out`
        cannot be written.
    """
    out = absolute(out, "out")
    workdirs = list(dict.fromkeys(absolute(workdir, "WORKDIR") for workdir in workdirs))
    runs = [read_run(workdir, name) for workdir, name in zip(workdirs, unique_names(workdirs), strict=True)]
    curves = read_reference(reference) if reference is not None else None
    filled = fill_texts(texts, workdirs)
    table = table_cells(runs)
    names = [run.name for run in runs]
    markdown = "\n".join([render.markdown_table(*table), *(format_guesses(text, names) for text in filled)])
    with bucket_errors_as_user_errors("out", out, "a bucket that can be written"):
        try:
            out.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError("out", f"{out}, which is or lies in a file", "a folder") from None
        write_whole(out / "table.md", markdown)
        write_whole(out / "loss.png", plots.plot_losses(runs, curves))
        write_whole(out / "report.html", page.format_page(runs, table, filled, curves))
    print(f"{markdown}\nWrote {out}/report.html, loss.png and table.md")
