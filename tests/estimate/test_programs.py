"""Programs that the TPU compiler makes for a slice."""

import dataclasses

import pytest

from configs.tiny import get_config as tiny
from symbert_jax.chips import GIB, TPUS
from symbert_jax.config import Config, freeze
from symbert_jax.estimate import programs
from symbert_jax.estimate.cost import PALLAS
from symbert_jax.estimate.kernel_cycles import attention_cycles
from symbert_jax.estimate.schedules import UnknownSchedule
from symbert_jax.estimate.slices import Slice
from symbert_jax.model import bert
from symbert_jax.model.flops import attention_flops, train_flops

# A model that compiles fast, with a loop over layers and no dropout, and in which matrix products dominate.
SMALL = {"layers": 8, "dropout": 0.0, "attention_dropout": 0.0, "dtype": "bfloat16", "dim": 128, "mlp_dim": 256}


def small(**model: object) -> Config:
    """Returns `configs/tiny.py` with a batch of 16 rows, with SMALL, and with these fields of the model."""
    config = tiny()
    config.data.batch_size = 16
    config.model.update(SMALL | model)
    return freeze(config)


def expected_flops(config: Config) -> float:
    """Returns the FLOPs of a step on one of 4 chips.

    They are the FLOPs of the model and of the gradients of biases, which a TPU computes as products with 8 ones.
    """
    model, rows = config.model, config.data.batch_size
    projections = {"standard": 4, "symmetric": 3, "pairwise": 3}[model.attention]
    biases = (projections + 1) * model.dim + model.mlp_dim  # of one layer
    return (train_flops(model, rows, max_predictions=8) + 2.0 * 8 * rows * model.length * model.layers * biases) / 4


@pytest.fixture(scope="module")
def standard(target: Slice) -> programs.Program:
    """The training step of the small model with standard attention."""
    return programs.compile_train(small(), target)


def test_gradients_are_reduced_once_in_bfloat16(standard) -> None:
    (reduction,) = standard.cost.collectives
    assert (reduction.kind, reduction.group) == ("all-reduce", 4)
    parameters = bert.size(small().model)
    assert 2 * parameters <= reduction.bytes <= 4 * parameters  # bfloat16 takes 2 bytes, float32 4
    assert reduction.count > small().model.layers and not standard.cost.unknown_loops  # one per iteration
    sent = 2 * 3 / 4 * reduction.bytes  # by each of 4 chips around a ring
    assert standard.network_seconds == pytest.approx(sent / (2 * TPUS["v5e"].link))  # one link along each axis


def test_cycles_of_a_scanned_model_grow_with_its_layers(standard, target) -> None:
    shallow = programs.compile_train(small(layers=2), target).cost
    assert standard.cost.cycles > 2 * shallow.cycles
    assert standard.cost.collectives[0].count > 2 * shallow.collectives[0].count


@pytest.mark.parametrize("variant", [{}, {"attention": "symmetric"}, {"attention": "pairwise"}], ids=str)
def test_program_flops_are_those_of_the_model(variant, target) -> None:
    config = small(**variant)
    program = programs.compile_train(config, target)
    assert program.cost.flops == pytest.approx(expected_flops(config), rel=0.01)


@pytest.mark.parametrize("attention", ["symmetric", "pairwise"])
def test_symmetric_and_pairwise_take_fewer_flops_than_standard(attention, standard, target) -> None:
    assert programs.compile_train(small(attention=attention), target).cost.flops < standard.cost.flops


def test_kernel_of_attention_counts_with_its_schedule_and_its_flops(target) -> None:
    config = small(length=128, layers=1)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, cross_document=False))
    program = programs.compile_train(config, target)
    assert all(part.kind != PALLAS for part in program.cost.unestimated)
    # on each of 4 chips; the backward pass costs as much as two forward passes
    flops = 3 * attention_flops(config.model, config.data.batch_size) / 4
    assert program.least_seconds["compute"] == (program.cost.flops + flops) / TPUS["v5e"].peak
    cycles = program.cost.regions[programs.KERNEL]
    assert program.cost.cycles > cycles > flops / TPUS["v5e"].peak * TPUS["v5e"].clock
    larger = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=32))
    mesh = programs.make_slice_mesh(config, target)
    # the forward kernel of `short` has one additional step, whatever the number of rows
    assert 1.8 < attention_cycles(larger, target, mesh, is_training=True) / cycles < 2


def test_kernel_without_a_schedule_stays_without_an_estimate(target, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> int:
        raise UnknownSchedule("no kernels")

    monkeypatch.setattr(programs, "attention_cycles", fail)
    cost = programs.compile_validation(small(length=128, layers=1), target).cost
    assert PALLAS in [part.kind for part in cost.unestimated] and programs.KERNEL not in cost.regions


def test_program_that_does_not_fit_is_refused_with_its_bytes(target) -> None:
    config = dataclasses.replace(small(), data=dataclasses.replace(small().data, batch_size=2**22))
    with pytest.raises(programs.DoesNotFit) as refusal:
        programs.compile_validation(config, target)
    assert refusal.value.available == TPUS["v5e"].hbm
    assert refusal.value.needed > 16 * GIB
