"""The first losses of fine-tuning, which a refactoring must not change, as in tests/test_golden.py."""

import jax
import pytest
from etils import epath

from symbert_jax import sharding
from symbert_jax.config import FinetuneConfig
from symbert_jax.eval import finetune, steps
from tests.conftest import configure
from tests.eval.conftest import write_glue, write_pretrained


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> FinetuneConfig:
    """A config with its own model and data, so that changes of other tests do not change these losses."""
    pretrained, glue = (tmp_path_factory.mktemp(name) for name in ("pretrained", "glue"))
    write_pretrained(pretrained, configure(model={"attention": "pairwise", "length": 32}, data={"batch_size": 16}))
    source = write_glue(glue, single=(4, 18), pair=(4, 8))
    return FinetuneConfig((str(pretrained),), tasks=("sst2",), learning_rates=(3e-3,), seeds=1, glue=source)


@pytest.mark.parametrize(("devices", "wanted"), [(1, [0.692460, 0.693761, 0.696597]), (8, [0.692460])])
def test_first_losses_of_finetune_are_unchanged(devices, wanted, config, tmp_path, monkeypatch) -> None:
    """The losses pin the head, the batches, dropout and the schedule of fine-tuning. Each length compiles a program."""
    losses, make = [], steps.make_train_step

    def make_recording(*arguments):
        train_step = make(*arguments)

        def step(*arguments):
            state, sums = train_step(*arguments)
            losses.append(float(sums["loss"][0][0] / sums["loss"][1][0]))
            if len(losses) == len(wanted):
                raise InterruptedError
            return state, sums

        return step

    monkeypatch.setattr(steps, "make_train_step", make_recording)
    monkeypatch.setattr(finetune, "make_mesh", lambda mesh: sharding.make_mesh(mesh, jax.devices()[:devices]))
    with pytest.raises(InterruptedError):
        finetune.finetune(config, epath.Path(tmp_path))
    assert losses == pytest.approx(wanted, abs=1e-5), losses
