"""The times of kernels, from a trace of a small program on the CPU."""

import jax
import jax.numpy as jnp
import pytest

from bench import kernel_times


def test_kernels_of_a_step_are_found_with_their_operations():
    @jax.jit
    def step(x):
        with jax.named_scope("layer"):
            return jnp.tanh(x @ x)

    x = jnp.ones((64, 64))
    compiled = step.lower(x).compile()
    times = kernel_times.measure(
        lambda steps: [jax.block_until_ready(compiled(x)) for _ in range(steps)], 3, compiled.as_text()
    )
    assert times == sorted(times, reverse=True)
    assert sum(each.milliseconds for each in times) > 0
    assert [each.calls for each in times] == pytest.approx([1] * len(times))
    assert any("layer/dot_general" in each.operation for each in times)
    first, *_, total = kernel_times.table(times, count=1).splitlines()[2:]
    assert times[0].operation in first and "all kernels" in total
