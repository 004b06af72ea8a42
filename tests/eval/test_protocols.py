"""Protocols have the published values; a config changes only the values that it sets."""

import dataclasses

import pytest

from symbert_jax.config import FinetuneConfig, GlueConfig
from symbert_jax.errors import UserError
from symbert_jax.eval.protocols import PROTOCOLS, resolve
from symbert_jax.train.optimizer import schedule


@pytest.mark.parametrize(
    ("name", "epochs", "learning_rates", "batch_sizes", "warmup", "seeds", "select", "length", "weight_decay", "clip"),
    [
        ("modernbert", 10, (1e-5, 3e-5, 5e-5, 8e-5), (64,), 0.06, 1, "best", 256, 5e-6, 0.0),
        ("paper", 5, (1e-5,), (16,), 0.1, 5, "last", 128, 0.0, 1.0),
        ("bert", 3, (5e-5, 4e-5, 3e-5, 2e-5), (32,), 0.1, 1, "last", 128, 0.01, 1.0),
        ("roberta", 10, (1e-5, 2e-5, 3e-5), (16, 32), 0.06, 5, "best", 512, 0.1, 0.0),
        ("cramming", 5, (4e-5,), (16,), 0.1, 5, "last", 128, 0.0, 0.0),
    ],
)
def test_protocols_have_published_values(
    name, epochs, learning_rates, batch_sizes, warmup, seeds, select, length, weight_decay, clip
) -> None:
    """protocols.py names the papers and code of these values; a value here changes only if it was misread there."""
    found = resolve(FinetuneConfig(protocol=name))
    assert (found.epochs, found.learning_rates, found.batch_sizes) == (epochs, learning_rates, batch_sizes)
    assert (found.warmup, found.seeds, found.select, found.length) == (warmup, seeds, select, length)
    assert (found.optim.weight_decay, found.optim.clip, found.dropout) == (
        weight_decay,
        clip,
        0.0 if name == "modernbert" else 0.1,
    )


def test_tasks_of_modernbert_have_their_own_number_of_epochs() -> None:
    protocol = resolve(FinetuneConfig(protocol="modernbert"))
    epochs = {name: protocol.for_task(name).epochs for name in ("sst2", "mnli", "rte", "cola", "qqp")}
    assert epochs == {"sst2": 3, "mnli": 3, "rte": 3, "cola": 10, "qqp": 10}
    assert protocol.for_task("cola").fingerprint != protocol.for_task("rte").fingerprint
    assert resolve(FinetuneConfig(protocol="modernbert", epochs=4)).for_task("rte").epochs == 4


def test_fields_that_config_sets_replace_values_of_protocol() -> None:
    found = resolve(
        FinetuneConfig(protocol="roberta", seeds=2, learning_rates=(1e-4,), glue=GlueConfig(source="tsv:x"))
    )
    assert found == dataclasses.replace(PROTOCOLS["roberta"], seeds=2, learning_rates=(1e-4,))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_learning_rate_warms_up_and_decays_to_zero(name) -> None:
    protocol = PROTOCOLS[name]
    learning_rate = schedule(protocol.optim_config(learning_rate=1e-5, steps=1000), steps=1000)
    warmup_steps = round(1000 * protocol.warmup)  # `warmup` is a fraction of the steps
    assert float(learning_rate(0)) == 0 and float(learning_rate(warmup_steps)) == pytest.approx(1e-5)
    assert float(learning_rate(1000)) == pytest.approx(0, abs=1e-12)


def test_optim_config_for_one_step_has_no_warmup() -> None:
    assert PROTOCOLS["paper"].optim_config(learning_rate=1e-5, steps=1).warmup_steps == 0


def test_fingerprint_ignores_grid_and_seeds() -> None:
    """The grid is the combinations of learning rates and batch sizes."""
    assert (
        resolve(FinetuneConfig(seeds=2)).fingerprint == resolve(FinetuneConfig(seeds=5, batch_sizes=(32,))).fingerprint
    )
    assert resolve(FinetuneConfig(length=128)).fingerprint == resolve(FinetuneConfig()).fingerprint
    others = [resolve(config).fingerprint for config in (FinetuneConfig(epochs=2), FinetuneConfig(length=64))]
    assert len({resolve(FinetuneConfig()).fingerprint, *others}) == 3


def test_resolve_refuses_unknown_protocol() -> None:
    with pytest.raises(UserError, match="did you mean 'cramming'"):
        resolve(FinetuneConfig(protocol="craming"))
