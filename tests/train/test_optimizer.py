"""The optimizers, compared with calculations by hand and with PyTorch, and the schedules."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symbert_jax.config import ATTENTIONS, OptimConfig
from symbert_jax.train.optimizer import decay_mask, make_optimizer, schedule
from symbert_jax.train.state import State
from symbert_jax.train.step import make_update
from tests.conftest import configure, init_params_numpy

FIXTURES = Path(__file__).parents[1] / "fixtures"


def test_linear_schedule_rises_and_falls_to_zero() -> None:
    learning_rate = schedule(OptimConfig(learning_rate=1e-4, warmup_steps=10_000), steps=200_000)
    found = [float(learning_rate(step)) for step in (0, 5_000, 10_000, 105_000, 200_000)]
    np.testing.assert_allclose(found, [0, 5e-5, 1e-4, 5e-5, 0], atol=1e-10)


def test_cosine_schedule_falls_late() -> None:
    learning_rate = schedule(OptimConfig(learning_rate=1e-4, warmup_steps=10_000, schedule="cosine"), steps=210_000)
    found = [float(learning_rate(step)) for step in (0, 10_000, 60_000, 110_000, 160_000, 210_000)]
    np.testing.assert_allclose(
        found, [0, 1e-4, 0.5e-4 * (1 + 0.5**0.5), 0.5e-4, 0.5e-4 * (1 - 0.5**0.5), 0], atol=1e-10
    )


@pytest.mark.parametrize(
    ("shape", "last"), [("linear", (1.0, 0.75, 0.5, 0.25, 0.0)), ("sqrt", (1.0, 0.5, 1 - 0.5**0.5, 1 - 0.75**0.5, 0.0))]
)
def test_wsd_schedule_stays_at_its_peak_until_the_last_steps(shape: str, last: tuple[float, ...]) -> None:
    optim = OptimConfig(learning_rate=1e-4, warmup_steps=10, schedule="wsd", decay_steps=8, decay_shape=shape)
    found = schedule(optim, steps=100)(jnp.array([0, 5, 10, 91, *range(92, 101, 2)]))
    np.testing.assert_allclose(found, 1e-4 * np.array([0, 0.5, 1, 1, *last]), rtol=1e-6, atol=1e-12)
    endless = schedule(dataclasses.replace(optim, decay_steps=0), steps=100)
    assert [float(endless(step)) for step in (10, 99, 100)] == [np.float32(1e-4)] * 3


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_decay_excludes_biases_and_layer_norm(attention) -> None:
    mask = decay_mask(init_params_numpy(configure(model={"attention": attention}).model))
    excluded = {jax.tree_util.keystr(path) for path, decays in jax.tree.leaves_with_path(mask) if not decays}
    decayed = {jax.tree_util.keystr(path) for path, decays in jax.tree.leaves_with_path(mask) if decays}
    assert all(name.endswith(("['bias']", "['scale']")) for name in excluded)
    assert all(
        name.endswith(("['kernel']", "['word']", "['position']", "['token_type']", "['pair']")) for name in decayed
    )
    assert ("['layers']['attention']['pair']" in decayed) == (attention == "pairwise")


def first_update(optim: OptimConfig, gradient: float, weight: float) -> dict[str, float]:
    """Returns the first update of a kernel and a bias of 4 equal numbers at learning rate 1."""
    params = {"kernel": jnp.full(4, weight), "bias": jnp.full(4, weight)}
    optimizer = make_optimizer(optim)
    updates, _ = optimizer.update(
        jax.tree.map(lambda leaf: jnp.full(4, gradient), params), optimizer.init(params), params
    )
    return {name: float(leaf[0]) for name, leaf in updates.items()}


def test_adamw_follows_pytorch_for_ten_steps() -> None:
    """PyTorch 2.13 recorded `adamw.npz`: the arrays after each step with given gradients.

    rng = np.random.default_rng(0)
    shapes = {"kernel": (3, 4), "bias": (4,)}
    start = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    sizes = 10.0 ** rng.uniform(-2, 1, (10, 1))  # norms below and above that of clipping
    for name, shape in shapes.items():
        scale = sizes.reshape(-1, *[1] * len(shape))
        gradients[name] = (rng.normal(size=(10, *shape)) * scale).astype(np.float32)
    gradients["kernel"][:, 0, 0] *= 1e-9  # an eps above 1e-12 would hide these
    decayed, others = ({"params": [params[name]], "weight_decay": decay} for name, decay in …)  # 0.1 and 0.0
    optimizer = torch.optim.AdamW([decayed, others], lr=1e-2, betas=(0.9, 0.999), eps=1e-12)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(i / 3, (10 - i) / 7))
    for step in range(10):  # with the gradients of the step
        norms.append(torch.nn.utils.clip_grad_norm_(params.values(), 1.0).item())
        optimizer.step()
        schedule.step()
    """
    recorded = np.load(FIXTURES / "adamw.npz")
    optim = OptimConfig(learning_rate=1e-2, warmup_steps=3, weight_decay=0.1)
    params = {name: jnp.array(recorded[f"start/{name}"]) for name in ("kernel", "bias")}

    def objective(params, gradients, _):
        products = jax.tree.map(lambda weight, gradient: jnp.sum(weight * gradient), params, gradients)
        return {"loss": (products["kernel"] + products["bias"], jnp.float32(1))}

    update, learning_rate = jax.jit(make_update(objective, optim)), schedule(optim, steps=10)
    state = State(jnp.int32(0), params, make_optimizer(optim).init(params))
    for step in range(10):
        gradients = {name: recorded[f"gradient/{name}"][step] for name in params}
        state, sums = update(state, gradients, jax.random.key(0), learning_rate(step))
        assert float(sums["grad_norm"][0]) == pytest.approx(recorded["norms"][step], rel=1e-5)
        for name, found in state.params.items():
            np.testing.assert_allclose(found, recorded[f"after/{name}"][step], rtol=2e-6, atol=1e-7, err_msg=f"{step}")


def test_first_adamw_update_is_the_sign_of_the_gradient() -> None:
    """Weight decay is added to the sign."""
    found = first_update(OptimConfig(weight_decay=0.01), gradient=3.0, weight=2.0)
    assert found["kernel"] == pytest.approx(1 + 0.01 * 2, rel=1e-5)
    assert found["bias"] == pytest.approx(1, rel=1e-5)


def test_lamb_scales_by_the_norm_of_the_weights() -> None:
    found = first_update(OptimConfig(name="lamb", weight_decay=0.0), gradient=3.0, weight=2.0)
    assert found["kernel"] == pytest.approx(2, rel=1e-5)  # |w| / |update| = 2 / 1 per element


def test_lamb_scales_each_layer_but_no_biases() -> None:
    optim = OptimConfig(name="lamb", weight_decay=0.0)
    kernel = jnp.stack([jnp.full(4, 2.0), jnp.full(4, 5.0)])
    params = {"layers": {"kernel": kernel, "bias": jnp.full((2, 4), 3.0)}}
    optimizer = make_optimizer(optim)
    gradients = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    np.testing.assert_allclose(updates["layers"]["kernel"][:, 0], [2, 5], rtol=1e-5)
    np.testing.assert_allclose(updates["layers"]["bias"], 1, rtol=1e-5)


def test_clipping_bounds_the_global_norm() -> None:
    """With eps far above the gradient, Adam's update is proportional to the gradient, and shows its norm."""
    unclipped = OptimConfig(weight_decay=0.0, eps=1e3, clip=0.0)
    free = first_update(unclipped, gradient=10.0, weight=0.0)["kernel"]
    clipped = first_update(OptimConfig(**{**vars(unclipped), "clip": 1.0}), gradient=10.0, weight=0.0)["kernel"]
    assert clipped / free == pytest.approx(1 / np.sqrt(8 * 100), rel=0.02)
