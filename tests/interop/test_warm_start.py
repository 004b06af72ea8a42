"""`warm_start` converts a standard model to a symmetric or pairwise one: exactly if possible, otherwise nearly."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from etils import epath

from symbert_jax.checkpoint import load
from symbert_jax.interop import warm_start
from symbert_jax.interop.export import export
from symbert_jax.interop.fold import fold
from symbert_jax.interop.import_ import import_
from symbert_jax.model import bert
from tests.conftest import configure, init_params_numpy
from tests.interop.ours import EXPORT_OPTIONS, FIXTURES, VOCAB

TOKENS = np.random.default_rng(0).integers(0, 128, (16, 16), dtype=np.int32)


def sharp_attention(attention: str, form: str = "full"):
    """Returns a model whose attention is far from uniform, because the queries, keys and their biases are large."""
    model = configure(model={"attention": attention, "pairwise_form": form}).model
    rng = np.random.default_rng(1)
    params = jax.tree.map(np.array, init_params_numpy(model))
    for name in {"query", "key"} & params["layers"]["attention"].keys():
        weights = params["layers"]["attention"][name]
        weights["kernel"] = 20 * weights["kernel"]
        weights["bias"] = rng.normal(0, 0.3, weights["bias"].shape).astype(np.float32)
    return model, params


@pytest.mark.parametrize(("attention", "form"), [("symmetric", "full"), ("pairwise", "full"), ("pairwise", "diagonal")])
def test_initial_weights_are_exact_if_exact_weights_exist(attention, form, mesh, monkeypatch) -> None:
    monkeypatch.setattr(warm_start, "STEPS", 0)
    model, wanted = sharp_attention(attention, form)
    standard, params = fold(model, wanted)
    converted, distances = warm_start.convert(standard, params, model, TOKENS)
    assert distances.shape == (2, 4) and distances.max() < 1e-3
    assert jax.tree.map(np.shape, converted) == jax.tree.map(np.shape, wanted)
    positions = np.broadcast_to(np.arange(16, dtype=np.int32), TOKENS.shape)  # of the logits: all
    logits = [np.asarray(bert.logits(model, each, TOKENS, positions)) for each in (converted, wanted)]
    np.testing.assert_allclose(*logits, atol=1e-3)


@pytest.mark.parametrize("attention", ["symmetric", "pairwise"])
def test_fit_is_nearer_to_standard_attention_than_initial_weights(attention, mesh, monkeypatch) -> None:
    model, params = sharp_attention("standard")
    target = dataclasses.replace(model, attention=attention)
    distances = {}
    for steps in (0, 40):
        monkeypatch.setattr(warm_start, "STEPS", steps)
        converted, distances[steps] = warm_start.convert(model, params, target, TOKENS)
    assert distances[40].mean() < 0.98 * distances[0].mean()
    for name in ("value", "output"):
        jax.tree.map(
            np.testing.assert_array_equal, converted["layers"]["attention"][name], params["layers"]["attention"][name]
        )


def test_import_converts_and_reports_heads_and_loss(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(warm_start, "STEPS", 2)
    source, workdir = epath.Path(FIXTURES / "plpi" / "vanilla"), epath.Path(tmp_path / "pairwise")
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat. " * 400)
    import_(source, workdir, vocab=str(VOCAB), attention="pairwise", text=f"text:{text}")
    output = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in output[:2]] == [["layer", "0:"], ["layer", "1:"]]
    assert all(len(line.rpartition("head: ")[2].split()) == 4 for line in output[:2])
    # half of the 64 rows of a warm start
    assert re.search(r"masked-language loss on 32 rows of text:.*: \d\.\d+ standard, \d\.\d+ pairwise", output[2])
    params, config = load(workdir)
    assert config.model.attention == "pairwise" and params["layers"]["attention"]["pair"].shape == (2, 4, 8, 8)
    export(workdir, epath.Path(tmp_path / "out"), **EXPORT_OPTIONS)
