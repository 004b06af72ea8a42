"""Fields that differ between the configs of runs, and fields that they share."""

import dataclasses

from symbert_jax.compare.differences import differing_fields, shared_fields
from symbert_jax.compare.runs import RunCurve
from symbert_jax.config import Config
from tests.compare.conftest import CONFIG, configure_attention


def test_fields_differ_or_are_shared() -> None:
    pairwise = dataclasses.replace(configure_attention("pairwise"), seed=1)
    runs = [RunCurve("a", CONFIG, {}), RunCurve("b", pairwise, {}), RunCurve("c", CONFIG, {})]
    assert differing_fields(runs) == {
        "model.attention": ["standard", "pairwise", "standard"],
        "seed": ["0", "1", "0"],
    }
    shared = shared_fields(runs)
    assert shared["model.dim"] == "16" and shared["data.batch_size"] == "4"
    assert not {"seed", "model.attention", "model.pairwise_init"} & shared.keys()
    assert shared_fields(runs[:1]).keys() == shared.keys() and not differing_fields(runs[:1])


def test_lists_are_written_as_on_the_command_line() -> None:
    data = dataclasses.replace(CONFIG.data, sources=("text:a", "text:b\n"))
    assert shared_fields([RunCurve("a", Config(data=data), {})])["data.sources"] == r"text:a,text:b\n"
