"""`export`, `import`, `fill` and `compare` on the command line, each with the output of the one before."""

import shutil
from pathlib import Path

from tests.command_line import run_commands
from tests.interop.ours import FIXTURES

IMPORTS = ["symbert_jax.compare", "symbert_jax.interop.export", "symbert_jax.interop.import_"]
TEXTS = ["the [MASK] of it", "return [MASK] or [MASK]"]


def test_commands_read_what_other_commands_wrote(tmp_path: Path) -> None:
    for name in ("run", "other"):
        shutil.copytree(FIXTURES / "checkpoint" / "workdir", tmp_path / name)
    exported, imported, filled, filled_again, compared, refused = run_commands(
        [
            ["export", "--checkpoint=run", "--out=bert"],
            ["import", "--source=bert", "--workdir=imported"],
            ["fill", "--checkpoint=run", "--top=3", *TEXTS],
            ["fill", "--checkpoint=imported", "--top=3", *TEXTS],
            ["compare", "--out=comparison", f"--fill={TEXTS[0]}", "run", "other"],
            ["compare", "--out=nothing", "run", "imported"],
        ],
        imports=IMPORTS,
        cwd=tmp_path,
    )
    for result in (exported, imported, filled, filled_again, compared):
        assert result.returncode == 0 and not result.stderr, result
    assert exported.stdout.startswith(f"{tmp_path}/bert: written as standard BERT, 42 tensors; its logits differ from ")
    assert imported.stdout == f"{tmp_path}/imported: standard BERT, 7,248 parameters, as checkpoint 0\n"
    assert filled_again.stdout == filled.stdout
    lines = filled.stdout.splitlines()
    assert [line for line in lines if not line.startswith("  ")] == TEXTS and len(lines) == 5
    assert all(line.count("%") == 3 for line in lines if line.startswith("  "))
    table = (tmp_path / "comparison/table.md").read_text()
    assert table in compared.stdout and "| run | " in table and "| other | " in table
    assert table.count("- run: ") == table.count("- other: ") == 1
    assert TEXTS[0] in (tmp_path / "comparison/report.html").read_text()
    assert refused.returncode == 2 and not refused.stdout and not (tmp_path / "nothing").exists()
    assert refused.stderr.startswith(f"error: {tmp_path}/imported: found no validation loss, wanted the workdir of a ")
