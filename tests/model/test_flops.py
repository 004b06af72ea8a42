"""Model FLOPs, compared with the matrix products of the traced model."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from symbert_jax.config import ATTENTIONS
from symbert_jax.model import bert
from symbert_jax.model.flops import attention_flops, train_flops
from symbert_jax.model.windows import in_window
from tests.conftest import configure, init_params_numpy
from tests.forms import FORMS, MODERN


def dot_flops(jaxpr) -> float:
    """Returns 2 x the multiply-adds of all matrix products of a program; one in a scan counts once per iteration."""
    total = 0.0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contract, _), _ = eqn.params["dimension_numbers"]
            depth = 1
            for axis in contract:
                depth *= eqn.invars[0].aval.shape[axis]
            total += 2.0 * eqn.outvars[0].aval.size * depth
        if "jaxpr" in eqn.params:
            inner = eqn.params["jaxpr"]
            total += eqn.params.get("length", 1) * dot_flops(getattr(inner, "jaxpr", inner))
    return total


VARIANTS = [{"attention": attention} for attention in ATTENTIONS] + [*FORMS.values(), {"mlp": "geglu"}]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_train_flops_are_three_times_the_forward_products(variant, mesh):
    config = dataclasses.replace(configure().model, **variant)
    tokens = jnp.zeros((3, 16), jnp.int32)
    params = init_params_numpy(config)
    program = jax.make_jaxpr(lambda params: bert.logits(config, params, tokens, tokens[:, :8]))(params)
    assert train_flops(config, batch_size=3, max_predictions=8) == pytest.approx(3 * dot_flops(program.jaxpr))


@pytest.mark.parametrize("window", [6, 40])
def test_attention_flops_count_the_pairs_in_windows(window):
    """Of four layers, the second and the third are local. A window of 40 tokens is longer than the row."""
    model = configure(model=MODERN | {"window": window}).model
    pairs = 2 * 16**2 + 2 * int(in_window(window, 16, 16).sum())
    assert attention_flops(model, batch_size=3) == 3 * 4.0 * pairs * model.dim
