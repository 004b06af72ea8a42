"""The search for the fastest batch size."""

import dataclasses
from types import SimpleNamespace

import pytest

from symbert_jax.chips import GIB
from symbert_jax.config import Config
from symbert_jax.estimate import batch_search
from symbert_jax.estimate.programs import DoesNotFit
from symbert_jax.estimate.slices import Slice
from tests.estimate.test_programs import small


@pytest.mark.parametrize("limit", [0, 1, 3, 4, 8, 15, 16, 27, 40, 64, 300])
def test_find_largest_finds_the_limit_in_few_attempts(limit: int) -> None:
    tried: list[int] = []

    def fits(rows: int) -> bool:
        tried.append(rows)
        return rows <= limit

    allowed = [0, 1, 2, 4, *range(8, 400, 8)]
    assert batch_search.find_largest(fits) == max(rows for rows in allowed if rows <= limit)
    assert len(tried) == len(set(tried)) <= 12


def test_fastest_batch_is_chosen_among_those_that_fit(target, monkeypatch, capsys) -> None:
    """A batch of at most 300 rows fits; it takes 1 MiB of each chip per row. Beyond 128 rows, a row takes longer."""

    def compile_train(config: Config, _: Slice) -> SimpleNamespace:
        rows = config.data.batch_size
        if rows > 300:
            raise DoesNotFit(needed=17.5 * GIB, available=15.75 * GIB)
        return SimpleNamespace(memory=float(rows * 2**20), seconds=0.001 + rows * (1e-5 if rows <= 128 else 1e-4))

    monkeypatch.setattr(batch_search, "compile_train", compile_train)
    config = dataclasses.replace(small(), optim=dataclasses.replace(small().optim, accumulate=2))
    batch_size = batch_search.with_fastest_batch(config, target).data.batch_size
    assert batch_size == 2 * 4 * 16  # micro-batches, chips, rows
    output = capsys.readouterr().out
    assert "batch 512, 128 rows per chip: 17.50 of 15.75 GiB, does not fit\n" in output
    assert output.endswith("\nfastest: batch 128, 32 rows per chip\n\n")
    head, *rows = [line.strip("| ").split(" | ") for line in output.splitlines() if line.startswith("| ")]
    assert head == ["batch", "rows per chip", "accumulate", "GiB per chip", "step ms", "tokens/s"]
    assert [row[0] for row in rows if row[0].isdigit()] == ["64", "128", "256"]  # the largest is not the fastest
    assert ["128", "32", "2", "0.12", "2.3", f"{128 * 32 / 0.00228:,.0f}"] in rows
