"""Names and metrics of runs."""

import pytest
from etils import epath

from symbert_jax.compare.runs import read_run, unique_names
from symbert_jax.errors import UserError
from tests.compare.conftest import CONFIG, write_files, write_run


@pytest.mark.parametrize(
    ("paths", "wanted"),
    [
        (["/a/run", "/b/run"], ["a/run", "b/run"]),
        (["/x/a/run", "/y/a/run", "/x/b/run", "/x/c"], ["x/a/run", "y/a/run", "b/run", "c"]),
        (["/run", "/a/run"], ["/run", "a/run"]),
        (["/run/1", "/run/2"], ["1", "2"]),
        (["gs://bucket/run", "/bucket/run"], ["gs://bucket/run", "/bucket/run"]),
        (["/a/\udcff\n"], ["\\udcff\\n"]),
    ],
)
def test_unique_names_returns_shortest_unique_endings(paths, wanted) -> None:
    assert unique_names([epath.Path(path) for path in paths]) == wanted


def test_read_run_returns_metrics_by_step(tmp_path) -> None:
    speeds = ({"step": step, "speed/tokens_per_second": speed} for step, speed in ((5, 1.0), (10, 7.0), (15, 3.0)))
    run = read_run(write_run(tmp_path / "run", {20: 3.0, 10: 4.0}, CONFIG, *speeds), "name")
    assert run.losses == {10: 4.0, 20: 3.0} and run.final_loss == 3.0
    assert run.first_step_at(3.5) == 20 and run.first_step_at(2.0) is None
    assert run.tokens_per_second == 3.0 and run.tokens_until(3) == 3 * 4 * 8
    assert run.metrics.keys() == {"validation/loss", "speed/tokens_per_second"}
    logged = run._replace(metrics=run.metrics | {"train/tokens": {5: 50.0, 10: 120.0}})
    assert [logged.tokens_until(step) for step in (0, 4, 5, 7, 10, 12)] == [0, 40, 50, 78, 120, 120 + 2 * 4 * 8]


@pytest.mark.parametrize("config", ["", "[]", '{"model": {"heads": 0}}', '{"model": {"dim": "16"}}'])
def test_read_run_refuses_broken_config(tmp_path, config) -> None:
    workdir = write_files(tmp_path / "run", config, '{"step": 10, "validation/loss": 5.0}\n')
    with pytest.raises(UserError, match=f"{workdir}/config.json"):
        read_run(workdir, "run")


def test_read_run_refuses_run_without_validation(tmp_path) -> None:
    with pytest.raises(UserError, match="found no validation loss"):
        read_run(epath.Path(tmp_path), "run")
