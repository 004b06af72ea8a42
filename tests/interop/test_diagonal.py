"""The commands that depend on the variant of attention, pretrain, export and import, support a diagonal P."""

import json

import jax
import numpy as np
import pytest
from etils import epath

from symbert_jax.checkpoint import load
from symbert_jax.interop.export import export
from symbert_jax.interop.import_ import import_
from symbert_jax.sharding import make_mesh
from symbert_jax.train import loop
from tests.conftest import configure, init_params_numpy, write_corpus
from tests.interop.ours import EXPORT_OPTIONS


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> epath.Path:
    """The workdir of a run of four steps with a diagonal P."""
    folder = tmp_path_factory.mktemp("diagonal")
    every_step = {"log_every": 1, "validate_every": 4, "validate_batches": 1, "checkpoint_every": 4}
    config = configure(
        model={"attention": "pairwise", "pairwise_form": "diagonal"},
        data={"dir": str(write_corpus(folder / "corpus"))},
        optim={"warmup_steps": 1},
        train={"steps": 4, **every_step},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_mesh", lambda mesh: make_mesh(mesh, jax.devices()[:1]))  # compiles faster
        loop.pretrain(config, epath.Path(folder / "run"))
    return epath.Path(folder / "run")


def test_pretrain_trains_a_diagonal_pair(workdir) -> None:
    params, config = load(workdir)
    pair, initial_pair = (each["layers"]["attention"]["pair"] for each in (params, init_params_numpy(config.model)))
    assert config.model.pairwise_form == "diagonal" and pair.shape == (2, 4, 8)  # layers, heads, head width
    assert 1e-3 < np.abs(pair - initial_pair).max() < 0.1


@pytest.mark.parametrize(("form", "attention"), [("huggingface", "standard"), ("plpi", "pairwise")])
def test_diagonal_model_survives_export_and_import(form, attention, workdir, tmp_path, capsys) -> None:
    """`export` prints how much the folder's logits differ from the model's; importing the folder makes P full."""
    out, again = epath.Path(tmp_path / "out"), epath.Path(tmp_path / "again")
    export(workdir, out, **EXPORT_OPTIONS | {"format": form})
    assert float(capsys.readouterr().out.split("at most ")[1]) < 1e-5
    import_(out, again, vocab=None, attention=None, text="")
    params, config = load(again)
    assert (config.model.attention, config.model.pairwise_form) == (attention, "full")
    weights, trained = params["layers"]["attention"], load(workdir)[0]["layers"]["attention"]
    card, exported = (out / "README.md").read_text(), json.loads((out / "config.json").read_text())
    assert "Its attention is pairwise, score qᵀPq with a diagonal P" in card
    if form == "huggingface":
        assert exported["model_type"] == "bert" and "Wk = Wq P and bk = P bq" in card
        wanted = trained["query"]["bias"] * trained["pair"]
        np.testing.assert_allclose(weights["key"]["bias"], wanted, rtol=1e-6)
    else:
        assert exported["plpi_affinity_function"] == "pairwise"
        np.testing.assert_array_equal(weights["pair"], trained["pair"][..., None] * np.eye(8))
