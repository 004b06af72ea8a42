"""fill and compare on the runs that they are for."""

import json

import jax
import numpy as np
import pytest
from etils import epath

from symbert_jax.checkpoint import Checkpoints
from symbert_jax.compare import compare
from symbert_jax.config import Config, Mesh, Model, Train, to_json
from symbert_jax.errors import UserError
from symbert_jax.fill import Filler
from symbert_jax.sharding import make_mesh
from symbert_jax.train import state as states

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on"]
CONFIG = Config(model=Model(layers=1, dim=16, heads=2, mlp_dim=32, length=8, vocab_size=16, dtype="float32"))


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory: pytest.TempPathFactory) -> list[epath.Path]:
    """Two runs by their files; the model of both always says "cat", then "sat"."""
    workdirs = []
    for name, losses in (("one", {10: 5.0, 20: 3.0, 30: 2.0}), ("two", {10: 5.5, 20: 5.2, 30: 2.5})):
        workdir = epath.Path(tmp_path_factory.mktemp("runs") / name)
        workdir.mkdir()
        with jax.set_mesh(make_mesh(Mesh(), jax.devices()[:1])):
            state = states.init(CONFIG)
            bias = np.full(16, -9.0, np.float32)
            bias[WORDS.index("cat")], bias[WORDS.index("sat")], bias[12] = 9.0, 8.0, 99.0  # 12 is no word
            state.params["head"]["bias"] = jax.device_put(bias, state.params["head"]["bias"].sharding)
            checkpoints = Checkpoints(workdir, Train())
            checkpoints.save(30, state.params, state.optimizer, CONFIG, None)
            checkpoints.close()
        (workdir / "vocab.txt").write_text("\n".join(WORDS) + "\n")
        (workdir / "config.json").write_text(to_json(CONFIG))
        lines = [{"step": step, "validation/loss": loss} for step, loss in losses.items()]
        lines += [{"step": 5, "speed/tokens_per_second": 7000.0}]
        (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        workdirs.append(workdir)
    return workdirs


def test_every_mask_gets_the_best_words_with_their_probabilities(workdirs) -> None:
    filler = Filler(workdirs[0])
    first, second = filler.guesses("The [MASK] sat [MASK].", top=2)
    assert [guess.word for guess in first] == [guess.word for guess in second] == ["cat", "sat"]
    assert first[0].probability == pytest.approx(np.e / (np.e + 1), abs=0.05)
    assert "cat 7" in filler.describe("[MASK]", 1)


def test_a_text_that_cannot_be_filled_is_one_clear_error(workdirs) -> None:
    filler = Filler(workdirs[0])
    with pytest.raises(UserError, match=r"found 'the cat', wanted at least one \[MASK\]"):
        filler.guesses("the cat", 5)
    with pytest.raises(UserError, match="found 9 tokens, wanted at most 8"):
        filler.guesses("[MASK] " * 7, 5)


def test_compare_leaves_a_table_and_a_plot(workdirs, tmp_path, capsys) -> None:
    compare(workdirs, epath.Path(tmp_path), ["the [MASK]"])
    text = (tmp_path / "table.md").read_text()
    assert text.splitlines()[0].split("|")[4:7] == [" step at 4.8 ", " step at 4.0 ", " step at 3.2 "]
    one, two = (line.replace(" ", "").split("|")[1:-1] for line in text.splitlines()[2:4])
    assert one[0] == "one" and one[2:] == ["2.000", "20", "20", "20", "7,000"]
    assert two[0] == "two" and two[2:] == ["2.500", "30", "30", "30", "7,000"]
    assert "- one: cat" in text
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert text.strip() in capsys.readouterr().out


def test_a_run_without_validation_cannot_be_compared(tmp_path) -> None:
    with pytest.raises(UserError, match="found no validation loss"):
        compare([epath.Path(tmp_path)], epath.Path(tmp_path), [])
