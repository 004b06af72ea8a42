import json
import sys
import time
import types

import pytest
from etils import epath

from symbert_jax.metrics import Metrics, read

VALUES = {
    "train/loss": 2.0,
    "train/accuracy": 0.5,
    "train/learning_rate": 1e-3,
    "train/grad_norm": 1.0,
    "speed/tokens_per_second": 12345.0,
    "speed/data_wait_fraction": 0.01,
}


def test_a_resumed_run_drops_what_was_logged_past_its_checkpoint(tmp_path) -> None:
    workdir = epath.Path(tmp_path)
    first = Metrics(workdir, 0, 100, "")
    for step in (10, 20, 30):
        first.write(step, {"train/loss": step / 3})
    first.close()
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "tr')  # killed while writing
    second = Metrics(workdir, 20, 100, "")
    second.write(30, {"train/loss": 1.0})
    second.close()
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert lines == [
        {"step": 10, "train/loss": 3.333333},
        {"step": 20, "train/loss": 6.666667},
        {"step": 30, "train/loss": 1.0},
    ]
    assert list((workdir / "tensorboard").iterdir())


def test_read_leaves_lines_that_are_no_metrics_out_with_one_warning(tmp_path, capsys) -> None:
    good = [{"step": 1, "train/loss": 1.5}, {"step": 2}, {"step": 4, "validation/loss": 3}]
    bad = [b"\xff\x00\x80", b"[1, 2]", b'"step"', b"", b"{}", b'{"step": "3"}', b'{"step": 3.0}', b'{"step": true}']
    bad += [b'{"step": -1}', b'{"step": 3, "train/loss": NaN}', b'{"step": 3, "train/loss": "1"}', b"[" * 100_000]
    bad += [b'{"step": 3, "train/loss": {"a": 1}}', b'{"step": 3, "train/loss": 1%s}' % (b"0" * 400), b'{"step": 3']
    bad += [b'{"step": 3, "train/loss": null}', b'{"step": %s}' % (b"9" * 5000), b'{"step": 3, "train/loss": 1e999}']
    file = epath.Path(tmp_path) / "metrics.jsonl"
    file.write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in good[:2]) + b'{"step": 9, "tr')
    assert read(file.parent) == good[:2] and not capsys.readouterr().err, "a kill while it was written"
    for line in bad:
        lines = [json.dumps(line).encode() for line in good]
        file.write_bytes(b"\n".join([*lines[:2], line, lines[2], b""]))
        assert read(file.parent) == good, line
        assert capsys.readouterr().err.startswith(f"warning: {file}: line 3 left out"), line
    file.write_bytes(b"\n".join([*bad, b""]))
    assert read(file.parent) == []
    (warning,) = capsys.readouterr().err.splitlines()
    assert f"line 1 and {len(bad) - 1} others left out" in warning


def test_metrics_go_on_without_a_copy_that_fails(tmp_path, capsys, monkeypatch) -> None:
    """TensorBoard's folder is a file from the start, Weights & Biases loses its network later."""
    workdir, logged = epath.Path(tmp_path), []

    def log(values: dict, step: int) -> None:
        logged.append(step)
        raise ConnectionError("no network")

    run = types.SimpleNamespace(log=log, finish=lambda: pytest.fail("a failed copy is not used again"))
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda **_: run))
    (workdir / "tensorboard").write_text("")
    metrics = Metrics(workdir, 0, 100, "project")
    for step in (1, 2):
        metrics.write(step, {"train/loss": 1.0})
    metrics.close()
    assert [line["step"] for line in read(workdir)] == [1, 2] and logged == [1]
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("warning: TensorBoard: FileExistsError: ") and first.endswith("the run goes on without it")
    assert second == "warning: Weights & Biases: ConnectionError: no network; the run goes on without it"


def test_speed_leaves_pauses_out_and_reports_waits(tmp_path) -> None:
    metrics = Metrics(epath.Path(tmp_path), 0, 100, "")
    assert metrics.speed(0, tokens=1000, flops=5.0, peak=None) == {}, "no step, no speed"
    with metrics.pause():
        time.sleep(0.5)
    with metrics.wait():
        time.sleep(0.1)
    values = metrics.speed(10, tokens=1000, flops=5.0, peak=None)
    assert values["speed/tokens_per_second"] > 10 * 1000 / 0.4, "half a second of pause is not in it"
    assert values["speed/data_wait_fraction"] > 0.2
    assert "speed/mfu" not in values
    time.sleep(0.01)
    values = metrics.speed(20, tokens=1000, flops=5.0, peak=100.0)
    assert values["speed/mfu"] == pytest.approx(values["speed/tokens_per_second"] / 1000 * 5.0 / 100.0)
    metrics.close()


def test_the_progress_line(tmp_path, capsys) -> None:
    metrics = Metrics(epath.Path(tmp_path), 0, 1000, "")
    metrics.eta = 3_700.0
    metrics.report(500, VALUES | {"speed/mfu": 0.42})
    metrics.close()
    assert capsys.readouterr().out == (
        "step 500/1,000 50%  loss 2.0000  accuracy 0.500  lr 1.00e-03  grad 1.00  12,345 tokens/s  mfu 42.0%"
        "  data wait 1.0%  eta 1h01m\n"
    )
