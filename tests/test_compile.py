"""Programs for TPU slices, made by the TPU compiler itself."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from etils import epath

from configs.tiny import get_config as tiny
from symbert_jax import compile as ahead
from symbert_jax.chips import GIB, TPUS
from symbert_jax.config import Config, UserError, freeze
from symbert_jax.model.flops import train_flops
from symbert_jax.slices import Slice, find_slice

ROOT = Path(__file__).parents[1]
# Little to compile: no dropout, and wide enough for products to be what counts.
SMALL = {"dropout": 0.0, "attention_dropout": 0.0, "dtype": "bfloat16", "dim": 128, "mlp_dim": 256}


def small(**model: object) -> Config:
    config = tiny()
    config.data.batch_size = 16
    config.model.update(SMALL | model)
    return freeze(config)


PRODUCTS_OF_BIASES = 1.02  # the gradients of biases are products too, with ones, and in so small a model they count


@pytest.fixture(scope="module")
def target() -> Iterator[Slice]:
    jax.config.update("jax_enable_compilation_cache", False)  # as the command does
    yield find_slice("v5e:2x2")
    jax.config.update("jax_enable_compilation_cache", True)


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> tuple[subprocess.CompletedProcess, dict]:
    """What the command prints and writes of `small()`; all tests share its compilations."""
    out = tmp_path_factory.mktemp("compile") / "report.json"
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


def test_the_program_makes_the_products_of_the_model_and_sums_every_gradient(found) -> None:
    """The layers' gradients are summed in bfloat16, in a loop whose body stands there once."""
    cost = found["train"]["cost"]
    assert 1 <= cost["flops"] / (found["model_flops"] / 4) < PRODUCTS_OF_BIASES
    (summed,) = cost["collectives"]
    assert (summed["kind"], summed["group"]) == ("all-reduce", 4)
    assert 2 * found["parameters"] <= summed["bytes"] <= 4 * found["parameters"]
    assert found["train"]["network_seconds"] == pytest.approx(2 * 3 / 4 * summed["bytes"] / (2 * TPUS["v5e"].link))


@pytest.mark.parametrize("attention", ["symmetric", "pairwise"])
def test_every_attention_compiles_with_fewer_products_than_standard(attention, found, target) -> None:
    config = small(attention=attention)
    program = ahead.compile_train(config, target)
    assert 1 <= program.cost.flops / (train_flops(config.model, 16, 8) / 4) < PRODUCTS_OF_BIASES
    assert program.cost.flops < found["train"]["cost"]["flops"]


def test_cycles_of_a_scanned_model_grow_with_its_layers(found, target) -> None:
    deep, shallow = ahead.compile_train(small(layers=8), target).cost, found["train"]["cost"]
    assert deep.cycles > 2 * shallow["cycles"]
    assert deep.collectives[0].count > 2 * shallow["collectives"][0]["count"]


def test_what_does_not_fit_is_refused_with_its_bytes(target) -> None:
    config = dataclasses.replace(small(), data=dataclasses.replace(small().data, batch_size=2**22))
    with pytest.raises(ahead.DoesNotFit) as refusal:
        ahead.compile_validation(config, target)
    assert refusal.value.available == TPUS["v5e"].hbm
    assert refusal.value.needed > 16 * GIB


def test_a_refusal_ends_with_one_line_and_its_bytes_as_json(target, tmp_path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise ahead.DoesNotFit(20.5 * GIB, 15.75 * GIB)

    monkeypatch.setattr(ahead, "estimate", refuse)
    monkeypatch.setattr(ahead.jax.config, "update", lambda *_: None)
    out = epath.Path(tmp_path / "report.json")
    with pytest.raises(
        UserError, match=r"^data.batch_size: found 16, which takes 20.50 GiB .* 15.75 GiB, 4.75 GiB less"
    ):
        ahead.report(small(), "v5e:2x2", False, out)
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
    assert ahead.largest(fits) == max(rows for rows in allowed if rows <= most)
    assert len(tried) == len(set(tried)) <= 12


def test_the_largest_batch_is_of_the_whole_mesh(target, monkeypatch, capsys) -> None:
    def compile_train(config: Config, _: Slice) -> ahead.Program:
        if config.data.batch_size > 300:
            raise ahead.DoesNotFit(17.5 * GIB, 15.75 * GIB)
        return dataclasses.make_dataclass("Small", ["memory"])(float(config.data.batch_size * 2**20))

    monkeypatch.setattr(ahead, "compile_train", compile_train)
    config = dataclasses.replace(small(), optim=dataclasses.replace(small().optim, accumulate=2))
    assert ahead.with_largest_batch(config, target).data.batch_size == 2 * 4 * 32
    assert "batch 256, 64 rows a chip: 0.25 of 15.75 GiB\n" in capsys.readouterr().out
