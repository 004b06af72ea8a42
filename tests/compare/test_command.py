"""`compare` writes its three files, and refuses what it cannot use before it writes one."""

import re
from pathlib import Path

import matplotlib
import pytest
from etils import epath

from symbert_jax.compare import compare
from symbert_jax.config import to_json
from symbert_jax.errors import UserError
from tests.command_line import run_commands
from tests.compare.conftest import CONFIG, configure_attention, write_files, write_run

LOSSES = {10: 5.0, 20: 3.0, 30: 2.0}


def test_compare_takes_runs_and_a_reference(tmp_path: Path) -> None:
    write_run(tmp_path / "one", LOSSES)
    write_run(tmp_path / "<b>two", LOSSES, configure_attention("pairwise"))
    (tmp_path / "curves.csv").write_text("step,standard\n10,6\n20,5\n")
    (tmp_path / "wrong.csv").write_text("10,6\n20,5\n")
    many, single, missing, wrong, offline = run_commands(
        [
            ["compare", "--out=many", "--reference=curves.csv", "one", "<b>two"],
            ["compare", "--out=single", "one"],
            ["compare", "--out=nothing", "--reference=nowhere.csv", "one"],
            ["compare", "--out=nothing", "--reference=wrong.csv", "one"],
            ["compare", "--out=nothing", "--reference=paper", "one"],
        ],
        imports=["symbert_jax.compare"],
        cwd=tmp_path,
        XDG_CACHE_HOME=str(tmp_path / "cache"),
        MPLCONFIGDIR=matplotlib.get_cachedir(),  # matplotlib would write a new cache of fonts, which takes long
        https_proxy="http://localhost:9",  # where nothing listens
    )
    for result, out, num_runs in ((many, "many", 2), (single, "single", 1)):
        assert result.returncode == 0 and not result.stderr, result
        table = (tmp_path / out / "table.md").read_text()
        assert result.stdout == f"{table}\nWrote {tmp_path}/{out}/report.html, loss.png and table.md\n"
        assert table.count("\n") == 2 + num_runs
        assert (tmp_path / out / "loss.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "many/report.html").read_text()
    assert "&lt;b&gt;two" in page and "<b>" not in page and "standard (curves)" in page
    assert "<h1>Run one</h1>" in (tmp_path / "single/report.html").read_text()
    messages = {
        missing: rf"error: reference: found no file {tmp_path}/nowhere.csv, wanted paper, paper-small, or a CSV .+",
        wrong: rf"error: reference: found {tmp_path}/wrong.csv with the header '10,6', wanted step,NAME,NAME…",
        offline: r"error: reference: found no answer from https://raw.githubusercontent.com/\S+_base.csv \(.+\), .+",
    }
    for result, message in messages.items():
        assert result.returncode == 2 and re.fullmatch(message, result.stderr.strip()), result
    assert not (tmp_path / "nothing").exists() and not [*tmp_path.glob("cache/**/*.csv")]


def test_compare_reads_damaged_metrics_and_odd_names(tmp_path, monkeypatch, capsys, bucket) -> None:
    """One run has one validation, the other damaged lines. Names have Markdown and TeX. Each path is given twice."""
    monkeypatch.setenv("HOME", str(tmp_path))
    odd = (
        '{"step": 10, "validation/loss": 4.0, "speed/tokens_per_second": NaN}',
        *('{"step": 20, "validation/loss": 3.0}', '{"step": 30, "validation/loss": "2.0"}', '{"validation/loss": 1.0}'),
        '{"step": true, "validation/loss": 1.0}',
        *('{"step": 30, "validation/loss": [1]}', '{"step": 40, "validation/loss": NaN}'),
        f'{{"step": 1{"0" * 400}, "validation/loss": 1{"0" * 400}}}',
    )
    one = write_run(tmp_path / "a/_$x|", {10: 5.0})
    other = write_files(tmp_path / "b/_$x|", to_json(CONFIG), "".join(f"{line}\n" for line in odd))
    compare([one, epath.Path("~/b/_$x|"), epath.Path(f"{one}/"), other / "../_$x|"], epath.Path("gs://bucket/out"), [])
    table = bucket.cat("gs://bucket/out/table.md").decode()
    _, _, *rows = ([cell.strip() for cell in line.split(" | ")] for line in table.splitlines())
    assert [row[0] for row in rows] == [r"| a/_$x\|", r"| b/_$x\|"]
    assert [row[2] for row in rows] == ["5.000", "3.000"] and [row[-1] for row in rows] == ["- |", "- |"]
    assert bucket.cat("gs://bucket/out/loss.png").startswith(b"\x89PNG")
    assert bucket.cat("gs://bucket/out/report.html").startswith(b"<!doctype html>")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {other}/metrics.jsonl: line 1 and 6 others left out, ")


def test_compare_refuses_file_as_out(tmp_path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file/in"):
        with pytest.raises(UserError, match=f"out: found {out}, which is or lies in a file, wanted a folder"):
            compare([write_run(tmp_path / "runs" / out.name, LOSSES)], epath.Path(out), [])
