"""Programs for TPU slices, made by the TPU compiler itself."""

import dataclasses

import pytest

from configs.tiny import get_config as tiny
from symbert_jax.chips import GIB, TPUS
from symbert_jax.config import Config, freeze
from symbert_jax.estimate import programs
from symbert_jax.estimate.cost import PALLAS
from symbert_jax.estimate.slices import Slice
from symbert_jax.model import bert
from symbert_jax.model.flops import attention_flops, train_flops

DIAGONAL = {"attention": "pairwise", "pairwise_form": "diagonal", "layers": 1}
# Little to compile: no dropout, and wide enough for products to be what counts.
SMALL = {"dropout": 0.0, "attention_dropout": 0.0, "dtype": "bfloat16", "dim": 128, "mlp_dim": 256}


def small(**model: object) -> Config:
    config = tiny()
    config.data.batch_size = 16
    config.model.update(SMALL | model)
    return freeze(config)


def products(config: Config) -> float:
    """FLOPs of a step on one of 4 chips: the model's, and the gradients of biases, which are products with 8 ones."""
    model, rows = config.model, config.data.batch_size
    projections = {"standard": 4, "symmetric": 3, "pairwise": 3}[model.attention]
    layer = (projections + 1) * model.dim + model.mlp_dim  # outputs of all its dense layers
    return (train_flops(model, rows, 8) + 2.0 * 8 * rows * model.length * model.layers * layer) / 4


@pytest.fixture(scope="module")
def standard(target: Slice) -> programs.Program:
    return programs.compile_train(small(), target)


def test_the_gradients_are_summed_once_in_bfloat16_in_a_loop_whose_body_stands_there_once(standard) -> None:
    (summed,) = standard.cost.collectives
    assert (summed.kind, summed.group) == ("all-reduce", 4)
    parameters = bert.size(small().model)
    assert 2 * parameters <= summed.bytes <= 4 * parameters
    assert standard.network_seconds == pytest.approx(2 * 3 / 4 * summed.bytes / (2 * TPUS["v5e"].link))


@pytest.mark.parametrize("variant", [{}, {"attention": "symmetric"}, {"attention": "pairwise"}, DIAGONAL], ids=str)
def test_the_program_makes_the_products_of_the_model_and_no_more(variant, target) -> None:
    config = small(**variant)
    program = programs.compile_train(config, target)
    assert program.cost.flops == pytest.approx(products(config), rel=0.01)


@pytest.mark.parametrize("attention", ["symmetric", "pairwise"])
def test_the_papers_attentions_make_fewer_products_than_standard(attention, standard, target) -> None:
    assert programs.compile_train(small(attention=attention), target).cost.flops < standard.cost.flops


def test_splash_compiles_for_documents_and_its_products_count_as_computing(target) -> None:
    config = small(length=128, kernel="splash", layers=1)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, cross_document=False))
    program = programs.compile_train(config, target)
    (kernel,) = (part for part in program.cost.unestimated if part.kind == PALLAS)
    assert kernel.count == 2  # forward and backward
    attention = 3 * attention_flops(config.model, config.data.batch_size) / 4
    assert program.least_seconds["compute"] == (program.cost.flops + attention) / TPUS["v5e"].peak


def test_cycles_of_a_scanned_model_grow_with_its_layers(standard, target) -> None:
    deep, shallow = programs.compile_train(small(layers=8), target).cost, standard.cost
    assert deep.cycles > 2 * shallow.cycles
    assert deep.collectives[0].count > 2 * shallow.collectives[0].count


def test_what_does_not_fit_is_refused_with_its_bytes(target) -> None:
    config = dataclasses.replace(small(), data=dataclasses.replace(small().data, batch_size=2**22))
    with pytest.raises(programs.DoesNotFit) as refusal:
        programs.compile_validation(config, target)
    assert refusal.value.available == TPUS["v5e"].hbm
    assert refusal.value.needed > 16 * GIB
