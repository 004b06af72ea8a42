"""The table of runs."""

import pytest

from symbert_jax.compare.runs import read_run
from symbert_jax.compare.table import table_cells
from tests.compare.conftest import CONFIG, write_run


def test_table_has_a_row_per_run(tmp_path) -> None:
    speed = {"step": 5, "speed/tokens_per_second": 7000.4}
    losses = {"one": {10: 5.0, 20: 3.0, 30: 2.0}, "two": {10: 5.5, 20: 5.2, 30: 2.5}}
    one = read_run(write_run(tmp_path / "one", losses["one"], CONFIG, speed), "one")
    two = read_run(write_run(tmp_path / "two", losses["two"]), "two")
    head, (one_cells, two_cells) = table_cells([one, two])
    assert head[2:] == ["validation loss", "step at 4.8", "step at 4.0", "step at 3.2", "tokens/s"]
    assert one_cells[0] == "one" and one_cells[2:] == ["2.000", "20", "20", "20", "7,000"]
    assert two_cells[0] == "two" and two_cells[2:] == ["2.500", "30", "30", "30", "-"]
    assert one_cells[1] == two_cells[1] and int(one_cells[1].replace(",", "")) > 1000
    averaged = one._replace(metrics=one.metrics | {"validation/ema_loss": {20: 3.1, 30: 2.1}})
    head, rows = table_cells([averaged, two])
    assert head[2:4] == ["validation loss", "loss of the average"] and [row[3] for row in rows] == ["2.100", "-"]


@pytest.mark.parametrize(
    ("losses", "wanted"),
    [
        ({10: 6.31, 20: 6.298}, {"6.307": 20, "6.304": 20, "6.301": 20}),
        ({10: 6.3, 20: 6.1, 30: 6.0}, {"6.22": 20, "6.15": 20, "6.08": 30}),
        ({10: 6.3}, {}),
    ],
)
def test_table_has_steps_at_distinct_losses(tmp_path, losses, wanted) -> None:
    head, (row,) = table_cells([read_run(write_run(tmp_path / "run", losses), "run")])
    columns = dict(zip(head, row, strict=True))
    steps = {name.removeprefix("step at "): int(step) for name, step in columns.items() if name.startswith("step")}
    assert steps == wanted and len(columns) == len(head)
