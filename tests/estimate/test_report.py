"""The command `compile` and its report."""

import dataclasses
import json

import pytest
from etils import epath

from symbert_jax.chips import GIB, TPUS
from symbert_jax.errors import UserError
from symbert_jax.estimate import report
from symbert_jax.estimate.cost import PALLAS, Unestimated
from symbert_jax.estimate.programs import DoesNotFit
from symbert_jax.model.flops import train_flops
from tests.estimate.test_programs import small


def test_compile_prints_and_writes_consistent_numbers(target, tmp_path, monkeypatch, capfd) -> None:
    summaries, summarize = [], report.summarize
    monkeypatch.setattr(report, "summarize", lambda *of: summaries.append(summarize(*of)) or summaries[0])
    out = epath.Path(tmp_path / "reports" / "small.json")
    report.report(small(), "v5e:2x2", find_batch=False, out=out)
    numbers, output = json.loads(out.read_text()), capfd.readouterr()
    assert not output.err
    assert "the TPU compiler's estimate, not a measurement" in output.out
    assert f"{numbers['tokens_per_second']:,.0f} tokens/s, MFU {numbers['mfu']:.1%}" in output.out
    assert numbers["fits"] and numbers["topology"] == "v5e:2x2"
    config, train, chip = small(), numbers["train"], TPUS["v5e"]
    assert (numbers["chips"], numbers["mesh"], numbers["rows_per_chip"]) == (4, {"data": 4, "model": 1}, 4)
    assert numbers["memory_parameters"] == 4 * numbers["parameters"]
    # two moments of each parameter
    assert numbers["memory_optimizer"] == pytest.approx(2 * numbers["memory_parameters"], rel=1e-3)
    total = numbers["memory_parameters"] + numbers["memory_optimizer"] + numbers["memory_temporaries"]
    assert total == train["memory"] < chip.hbm and numbers["memory_temporaries"] > 0
    assert train["cycle_seconds"] == train["cost"]["cycles"] / chip.clock > 0
    assert train["seconds"] == train["cycle_seconds"] + train["roofline_seconds"] + train["network_seconds"]
    assert 0 < numbers["validation"]["seconds"] < train["seconds"]
    assert numbers["tokens_per_second"] == pytest.approx(16 * 32 / train["seconds"])  # 16 rows of 32 tokens
    assert numbers["model_flops"] == train_flops(config.model, batch_size=16, max_predictions=8)
    assert numbers["mfu"] == pytest.approx(numbers["model_flops"] / train["seconds"] / (4 * chip.peak))
    assert numbers["hours"] == pytest.approx(400 * train["seconds"] / 3600)  # 400 steps, validation not counted
    assert numbers["bound"] == max(train["least_seconds"], key=train["least_seconds"].get)
    assert "Pallas" not in output.out
    (summary,) = summaries
    cost = dataclasses.replace(summary.train.cost, unestimated=(Unestimated(PALLAS, 1, 0.0, 1.0),))
    with_kernel = dataclasses.replace(summary, train=dataclasses.replace(summary.train, cost=cost))
    assert "this libtpu shows no schedule of the Pallas kernels" in report.report_text(config, with_kernel, chip)


def test_compile_reports_every_phase(target, tmp_path, capsys) -> None:
    """Both phases have the config of `small`, whose step another test compiles."""
    config = small()
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, phases=("100:",)))
    out = epath.Path(tmp_path / "phases.json")
    report.report(config, "v5e:2x2", find_batch=False, out=out)
    first, last = json.loads(out.read_text())["phases"]
    assert (first["steps"], last["steps"]) == (100, 300) and last["hours"] == pytest.approx(3 * first["hours"])
    output = capsys.readouterr().out
    assert "steps 100 to 400: rows of 32 tokens" in output and "hours for 400 steps" in output.splitlines()[-1]
    with pytest.raises(UserError, match="find_batch: found a run of 2 phases, wanted a run of one phase"):
        report.report(config, "v5e:2x2", find_batch=True, out=None)


def test_compile_reports_bytes_of_a_program_that_does_not_fit(target, tmp_path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise DoesNotFit(needed=20.5 * GIB, available=15.75 * GIB)

    monkeypatch.setattr(report, "summarize", refuse)
    monkeypatch.setattr(report.jax.config, "update", lambda *_: None)
    out = epath.Path(tmp_path / "report.json")
    with pytest.raises(
        UserError,
        match=r"^data.batch_size: found 16, which needs 20.50 GiB .* 4.75 GiB too much, wanted at most 15.75 GiB",
    ):
        report.report(small(), "v5e:2x2", find_batch=False, out=out)
    assert json.loads(out.read_text()) == {
        "topology": "v5e:2x2", "fits": False, "needed": 20.5 * GIB, "available": 15.75 * GIB,
    }  # fmt: skip
