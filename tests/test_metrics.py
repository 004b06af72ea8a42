"""Metrics in metrics.jsonl, their copies elsewhere, and the clock."""

import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
from etils import epath

from symbert_jax.metrics import Clock, Metrics, describe, read

ROOT = Path(__file__).parents[1]


def test_metrics_drops_lines_after_the_resumed_step(tmp_path) -> None:
    workdir = epath.Path(tmp_path)
    first = Metrics(workdir, step=0, wandb="")
    for step in (10, 20, 30):
        first.write(step, {"train/loss": step / 3})
    first.close()
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "tr')  # killed while writing
    second = Metrics(workdir, step=20, wandb="")
    second.write(30, {"train/loss": 1.0})
    second.close()
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert lines == [
        {"step": 10, "train/loss": 3.333333},
        {"step": 20, "train/loss": 6.666667},
        {"step": 30, "train/loss": 1.0},
    ]
    assert list((workdir / "tensorboard").iterdir())


def test_read_ignores_damaged_lines_with_one_warning(tmp_path, capsys) -> None:
    good = [{"step": 1, "train/loss": 1.5}, {"step": 2}, {"step": 4, "validation/loss": 3}]
    bad = [b"\xff\x00\x80", b"[1, 2]", b'"step"', b"", b"{}", b'{"step": "3"}', b'{"step": 3.0}', b'{"step": true}']
    bad += [b'{"step": -1}', b'{"step": 3, "train/loss": NaN}', b'{"step": 3, "train/loss": "1"}', b"[" * 100_000]
    bad += [b'{"step": 3, "train/loss": {"a": 1}}', b'{"step": 3, "train/loss": 1%s}' % (b"0" * 400), b'{"step": 3']
    bad += [b'{"step": 3, "train/loss": null}', b'{"step": %s}' % (b"9" * 5000), b'{"step": 3, "train/loss": 1e999}']
    file = epath.Path(tmp_path) / "metrics.jsonl"
    file.write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in good[:2]) + b'{"step": 9, "tr')
    assert read(file.parent) == good[:2] and not capsys.readouterr().err, "the last line is truncated"
    for line in bad:
        lines = [json.dumps(line).encode() for line in good]
        file.write_bytes(b"\n".join([*lines[:2], line, lines[2], b""]))
        assert read(file.parent) == good, line
        assert capsys.readouterr().err.startswith(f"warning: {file}: line 3 left out"), line
    file.write_bytes(b"\n".join([*bad, b""]))
    assert read(file.parent) == []
    (warning,) = capsys.readouterr().err.splitlines()
    assert f"line 1 and {len(bad) - 1} others left out" in warning


def test_metrics_drops_a_copy_that_fails(tmp_path, capsys, monkeypatch) -> None:
    """TensorBoard fails at the start: its folder is a file. Weights & Biases fails later, without a network."""
    workdir, logged = epath.Path(tmp_path), []

    def log(values: dict, step: int) -> None:
        logged.append(step)
        raise ConnectionError("no network")

    run = types.SimpleNamespace(log=log, finish=lambda: pytest.fail("a failed copy is not used again"))
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda **_: run))
    (workdir / "tensorboard").write_text("")
    metrics = Metrics(workdir, step=0, wandb="project")
    for step in (1, 2):
        metrics.write(step, {"train/loss": 1.0})
    metrics.close()
    assert [line["step"] for line in read(workdir)] == [1, 2] and logged == [1]
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("warning: TensorBoard: FileExistsError: ") and first.endswith(
        "the run continues without it"
    )
    assert second == "warning: Weights & Biases: ConnectionError: no network; the run continues without it"


WANDB = """
import json
import pathlib
import struct
import sys

from etils import epath
from symbert_jax.metrics import Metrics

one, other = map(epath.Path, sys.argv[1:])
for start, stop in ((0, 2), (1, 3)):  # a start, and one that resumes from a checkpoint before the last line
    first, second = Metrics(one, start, wandb="project"), Metrics(other, start, wandb="project")
    for step in range(start + 1, stop + 1):
        first.write(step, {"train/loss": 1 / step})
        second.write(step, {"train/loss": -1.0 * step})
    first.write(stop, {"validation/loss": 0.5})
    first.close()
    second.close()

import wandb

wandb.teardown()  # its process may write the files after `finish` has returned; this waits for it

from wandb.proto.wandb_internal_pb2 import Record  # the offline files hold such records, in the format of LevelDB's log

def records(data):
    position, record = 7, b""
    while position + 7 <= len(data):
        _, size, kind = struct.unpack_from("<IHB", data, position)
        record += data[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # whole, or its last part
            yield Record.FromString(record)
            record = b""

found = []
files = [sorted(pathlib.Path(workdir).glob("wandb/offline-run-*/*.wandb")) for workdir in (one, other)]
for file in sum(files, []):
    run, history = None, {}
    for record in records(file.read_bytes()):
        run = record.run if record.HasField("run") else run
        if record.HasField("history"):
            items = {item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            history[items["_step"]] = {name: value for name, value in items.items() if name[0] != "_"}
    found.append([run.project, run.display_name, run.run_id, history])
print("found", json.dumps(found))
"""


def test_wandb_gets_all_metrics_and_a_restart_resumes_its_run(tmp_path) -> None:
    """Two runs are written side by side, as `study` does. The library itself works in its offline mode, and in a
    separate process, because it leaves threads behind."""
    workdirs = [tmp_path / "run", tmp_path / "other"]
    for workdir in workdirs:
        workdir.mkdir()
    environment = os.environ | {"WANDB_MODE": "offline", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WANDB, *map(str, workdirs)]
    process = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert "warning" not in process.stderr and process.returncode == 0, process.stderr
    first, second, *others = json.loads(process.stdout.rpartition("found ")[2])
    assert first[:2] == ["project", "run"] and first[:3] == second[:3], "one run"
    assert first[3] == {"1": {"train/loss": 1.0}, "2": {"train/loss": 0.5, "validation/loss": 0.5}}
    assert second[3] == {
        "2": {"train/loss": 0.5},
        "3": {"train/loss": pytest.approx(1 / 3), "validation/loss": 0.5},
    }
    assert [other[:2] for other in others] == [["project", "other"]] * 2 and others[0][2] != first[2], "another run"
    assert [other[3] for other in others] == [
        {str(step): {"train/loss": -step} for step in steps} for steps in ((1, 2), (2, 3))
    ]


def test_clock_leaves_pauses_out_and_measures_waits() -> None:
    clock = Clock(step=0)
    assert clock.lap(step=0).speed(tokens=1000, flops=5.0, peak=None) == {}, "no step, no speed"
    with clock.pause():
        time.sleep(0.5)
    with clock.wait():
        time.sleep(0.1)
    values = clock.lap(step=10).speed(tokens=1000, flops=5.0, peak=None)
    assert values["speed/tokens_per_second"] > 10 * 1000 / 0.4, "half a second of pause does not count"
    assert values["speed/data_wait_fraction"] > 0.2
    assert "speed/mfu" not in values
    time.sleep(0.01)
    values = clock.lap(step=20).speed(tokens=1000, flops=5.0, peak=100.0)
    assert values["speed/mfu"] == pytest.approx(values["speed/tokens_per_second"] / 1000 * 5.0 / 100.0)


def test_describe_shows_every_metric() -> None:
    values = {"speed/mfu": 0.42, "speed/tokens_per_second": 12345.0, "speed/data_wait_fraction": 0.01}
    values |= {"train/grad_norm": 1.0, "train/next_sentence": 0.6931, "train/accuracy": 0.5, "train/loss": 2.0}
    assert describe(values | {"train/learning_rate": 1e-3}) == (
        "loss 2.0000  accuracy 0.500  lr 1.00e-03  grad 1.00  12,345 tokens/s  mfu 42.0%  data wait 1.0%"
        "  next_sentence 0.6931"
    )
    assert describe({"train/empty_steps": 3.0}) == "3 steps without a token to predict"
