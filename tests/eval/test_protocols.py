"""Protocols have the published values; a config changes only the values that it sets."""

import dataclasses
import hashlib

import pytest

from symbert_jax.config import FinetuneConfig, GlueConfig
from symbert_jax.errors import UserError
from symbert_jax.eval.protocols import PROTOCOLS, resolve
from symbert_jax.train.optimizer import schedule


@pytest.mark.parametrize(
    ("name", "epochs", "learning_rates", "batch_sizes", "warmup", "seeds", "select", "length", "weight_decays", "clip"),
    [
        ("modernbert", (2, 5, 10), (1e-5, 3e-5, 5e-5, 8e-5), (64,), 0.06, 1, "best", 256, (1e-6, 5e-6, 8e-6, 1e-5), 0),
        ("paper", (5,), (1e-5,), (16,), 0.1, 5, "last", 128, (0.0,), 1),
        ("bert", (3,), (5e-5, 4e-5, 3e-5, 2e-5), (32,), 0.1, 1, "last", 128, (0.01,), 1),
        ("roberta", (10,), (1e-5, 2e-5, 3e-5), (16, 32), 0.06, 5, "best", 512, (0.1,), 0),
        ("cramming", (5,), (4e-5,), (16,), 0.1, 5, "last", 128, (0.0,), 0),
    ],
)
def test_protocols_have_published_values(
    name, epochs, learning_rates, batch_sizes, warmup, seeds, select, length, weight_decays, clip
) -> None:
    """protocols.py names the papers and code of these values; a value here changes only if it was misread there."""
    found = resolve(FinetuneConfig(protocol=name))
    assert (found.epochs, found.learning_rates, found.batch_sizes) == (epochs, learning_rates, batch_sizes)
    assert (found.warmup, found.seeds, found.select, found.length) == (warmup, seeds, select, length)
    is_modernbert = name == "modernbert"
    assert (found.all_weight_decays, found.optim.clip, found.decay_per_step) == (weight_decays, clip, is_modernbert)
    assert found.dropout == (0.0 if is_modernbert else 0.1)


def test_tasks_of_modernbert_have_their_own_numbers_of_epochs() -> None:
    protocol = resolve(FinetuneConfig(protocol="modernbert"))
    epochs = {name: protocol.for_task(name).epochs for name in ("sst2", "mnli", "rte", "cola", "qqp")}
    assert epochs == dict.fromkeys(("sst2", "mnli", "rte"), (1, 2, 3)) | dict.fromkeys(("cola", "qqp"), (2, 5, 10))
    assert (protocol.for_task("rte").num_trials, protocol.for_task("rte").num_epochs) == (48, 96)
    assert resolve(FinetuneConfig(protocol="modernbert", epochs=4)).for_task("rte").epochs == (4,)


def test_weight_decay_of_modernbert_is_a_fraction_per_step() -> None:
    """At the peak learning rate, a step subtracts the product of learning rate, factor and weight."""
    modernbert, roberta = PROTOCOLS["modernbert"], PROTOCOLS["roberta"]
    assert 5e-5 * modernbert.decay_factor(8e-6, 5e-5) == pytest.approx(8e-6)
    assert roberta.decay_factor(0.1, 5e-5) == 0.1


@pytest.mark.parametrize(
    ("name", "sha256"),
    [
        ("paper", "0625ba4bcde90d87"),
        ("bert", "6514cea927c0b1c5"),
        ("roberta", "62ce5f1b5aec7e50"),
        ("cramming", "ef8ade5b4cf47326"),
    ],
)
def test_fingerprints_are_unchanged(name, sha256) -> None:
    """A change would train again the finished trials of every workdir, and save their models to other folders."""
    protocol = resolve(FinetuneConfig(protocol=name)).for_task("rte")
    (epochs,), (weight_decay,) = protocol.epochs, protocol.all_weight_decays
    for fingerprint in (protocol.fingerprint, protocol.trial_fingerprint(epochs, weight_decay)):
        assert hashlib.sha256(fingerprint.encode()).hexdigest()[:16] == sha256


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
    """The grid is the combinations of learning rates, batch sizes, weight decays and numbers of epochs."""
    assert (
        resolve(FinetuneConfig(seeds=2)).fingerprint == resolve(FinetuneConfig(seeds=5, batch_sizes=(32,))).fingerprint
    )
    grids = [resolve(FinetuneConfig(weight_decays=decays)) for decays in ((0.0, 0.1, 0.0), (0.1, 0.2, 0.3))]
    assert grids[0].all_weight_decays == (0.0, 0.1) and grids[0].fingerprint == grids[1].fingerprint
    single = resolve(FinetuneConfig(weight_decays=(0.1,)))
    assert single.optim.weight_decay == 0.1 and not single.weight_decays
    assert grids[0].trial_fingerprint(5, 0.1) == single.fingerprint != resolve(FinetuneConfig()).fingerprint
    assert resolve(FinetuneConfig(length=128)).fingerprint == resolve(FinetuneConfig()).fingerprint
    others = [resolve(config).fingerprint for config in (FinetuneConfig(epochs=2), FinetuneConfig(length=64))]
    assert len({resolve(FinetuneConfig()).fingerprint, *others}) == 3


def test_resolve_refuses_unknown_protocol() -> None:
    with pytest.raises(UserError, match="did you mean 'cramming'"):
        resolve(FinetuneConfig(protocol="craming"))
