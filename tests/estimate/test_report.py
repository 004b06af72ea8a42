"""The report on a slice, of programs that the TPU compiler makes."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath

from symbert_jax.chips import GIB, TPUS
from symbert_jax.config import Config
from symbert_jax.errors import UserError
from symbert_jax.estimate import report as command
from symbert_jax.estimate.programs import DoesNotFit, Program
from symbert_jax.estimate.slices import Slice
from symbert_jax.model.flops import train_flops
from tests.estimate.test_programs import SMALL, small

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> tuple[subprocess.CompletedProcess, dict]:
    """What the command prints and writes of `small()`; all tests share its compilations."""
    out = tmp_path_factory.mktemp("compile") / "reports" / "small.json"
    command = [sys.executable, "-m", "symbert_jax", "compile", "--config=configs/tiny.py", "--topology=v5e:2x2"]
    command += [
        f"--out={out}",
        "--config.data.batch_size=16",
        *(f"--config.model.{field}={value}" for field, value in SMALL.items()),
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    return result, json.loads(out.read_text())


@pytest.fixture(scope="module")
def found(ran) -> dict:
    return ran[1]


def test_the_command_prints_and_writes_an_estimate_and_calls_it_one(ran) -> None:
    result, found = ran
    assert result.returncode == 0 and not result.stderr
    assert "the TPU compiler's estimate, not a measurement" in result.stdout
    assert f"{found['tokens_per_second']:,.0f} tokens/s, MFU {found['mfu']:.1%}" in result.stdout
    assert found["fits"] and found["topology"] == "v5e:2x2"


def test_a_report_adds_up(found) -> None:
    config, train, chip = small(), found["train"], TPUS["v5e"]
    assert (found["chips"], found["mesh"], found["rows_per_chip"]) == (4, {"data": 4, "model": 1}, 4)
    assert found["memory_parameters"] == 4 * found["parameters"]
    assert found["memory_optimizer"] == pytest.approx(2 * found["memory_parameters"], rel=1e-3)  # two moments
    parts = found["memory_parameters"] + found["memory_optimizer"] + found["memory_temporaries"]
    assert parts == train["memory"] < chip.hbm and found["memory_temporaries"] > 0
    assert train["cycle_seconds"] == train["cost"]["cycles"] / chip.clock > 0
    assert train["seconds"] == train["cycle_seconds"] + train["roofline_seconds"] + train["network_seconds"]
    assert 0 < found["validation"]["seconds"] < train["seconds"]
    assert found["tokens_per_second"] == pytest.approx(16 * 32 / train["seconds"])
    assert found["model_flops"] == train_flops(config.model, 16, 8)
    assert found["mfu"] == pytest.approx(found["model_flops"] / train["seconds"] / (4 * chip.peak))
    assert found["hours"] == pytest.approx(400 * train["seconds"] / 3600)
    assert found["bound"] == max(train["least_seconds"], key=train["least_seconds"].get)


def test_a_refusal_ends_with_one_line_and_its_bytes_as_json(target, tmp_path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise DoesNotFit(20.5 * GIB, 15.75 * GIB)

    monkeypatch.setattr(command, "estimate", refuse)
    monkeypatch.setattr(command.jax.config, "update", lambda *_: None)
    out = epath.Path(tmp_path / "report.json")
    with pytest.raises(
        UserError, match=r"^data.batch_size: found 16, which takes 20.50 GiB .* 15.75 GiB, 4.75 GiB less"
    ):
        command.report(small(), "v5e:2x2", False, out)
    assert json.loads(out.read_text()) == {
        "topology": "v5e:2x2", "fits": False, "needed": 20.5 * GIB, "available": 15.75 * GIB,
    }  # fmt: skip


@pytest.mark.parametrize("most", [0, 1, 3, 4, 8, 15, 16, 27, 40, 64, 300])
def test_the_largest_batch_is_found_with_few_compilations(most: int) -> None:
    tried: list[int] = []

    def fits(rows: int) -> bool:
        tried.append(rows)
        return rows <= most

    allowed = [0, 1, 2, 4, *range(8, 400, 8)]
    assert command.largest(fits) == max(rows for rows in allowed if rows <= most)
    assert len(tried) == len(set(tried)) <= 12


def test_the_largest_batch_is_of_the_whole_mesh(target, monkeypatch, capsys) -> None:
    def compile_train(config: Config, _: Slice) -> Program:
        if config.data.batch_size > 300:
            raise DoesNotFit(17.5 * GIB, 15.75 * GIB)
        return dataclasses.make_dataclass("Small", ["memory"])(float(config.data.batch_size * 2**20))

    monkeypatch.setattr(command, "compile_train", compile_train)
    config = dataclasses.replace(small(), optim=dataclasses.replace(small().optim, accumulate=2))
    assert command.with_largest_batch(config, target).data.batch_size == 2 * 4 * 32
    assert "batch 256, 64 rows a chip: 0.25 of 15.75 GiB\n" in capsys.readouterr().out
