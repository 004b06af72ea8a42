"""The search for the largest batch size."""

import dataclasses
from types import SimpleNamespace

import pytest

from symbert_jax.chips import GIB
from symbert_jax.config import Config
from symbert_jax.estimate import largest_batch
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
    assert largest_batch.find_largest(fits) == max(rows for rows in allowed if rows <= limit)
    assert len(tried) == len(set(tried)) <= 12


def test_largest_batch_fills_the_mesh_and_all_micro_batches(target, monkeypatch, capsys) -> None:
    """A batch of at most 300 rows fits; it takes 1 MiB of each chip per row."""

    def compile_train(config: Config, _: Slice) -> SimpleNamespace:
        if config.data.batch_size > 300:
            raise DoesNotFit(needed=17.5 * GIB, available=15.75 * GIB)
        return SimpleNamespace(memory=float(config.data.batch_size * 2**20))

    monkeypatch.setattr(largest_batch, "compile_train", compile_train)
    config = dataclasses.replace(small(), optim=dataclasses.replace(small().optim, accumulate=2))
    batch_size = largest_batch.with_largest_batch(config, target).data.batch_size
    assert batch_size == 2 * 4 * 32  # micro-batches, chips, rows
    assert "batch 256, 64 rows per chip: 0.25 of 15.75 GiB\n" in capsys.readouterr().out
