"""The bundles of instructions that a head of width 64 takes in a kernel of attention, by the TPU compiler's schedule.

    .venv/bin/python -m bench.attention_bundles --chips v5e --lengths 512 1024

Records one line per kernel and prints a table: forward and backward pass, waits for memory not included. A kernel takes
ten seconds to two minutes of one core.
"""

import argparse
import dataclasses
import itertools

import jax

from bench.record import record
from configs import base
from symbert_jax.chips import TPUS
from symbert_jax.config import Config, freeze
from symbert_jax.estimate.kernel_cycles import attention_cycles
from symbert_jax.estimate.programs import make_slice_mesh
from symbert_jax.estimate.slices import compiler_version, find_slice
from symbert_jax.model import kernels
from symbert_jax.model.short.plan import Plan
from symbert_jax.render import markdown_table
from symbert_jax.sharding import device

ROWS = 8
KERNELS = {  # model.kernel, model.attention
    "splash": ("splash", "standard"),
    "short": ("short", "standard"),
    "short, symmetric": ("short", "symmetric"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chips", nargs="+", default=("v5e", "v6e", "v5p", "v4"), choices=TPUS)
    parser.add_argument("--lengths", nargs="+", type=int, default=(512, 1024, 2048, 4096, 8192))
    parser.add_argument("--kernels", nargs="+", default=KERNELS, choices=KERNELS)
    parser.add_argument("--dropouts", nargs="+", type=float, default=(0.0, 0.1), help="of attention probabilities")
    parser.add_argument("--window", type=int, default=0, help="of every layer; 0: none")
    flags = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    rows = []
    for length, kernel, dropout in itertools.product(flags.lengths, flags.kernels, flags.dropouts):
        cells = [bundles(chip, kernel, length, dropout, flags.window) for chip in flags.chips]
        if any(cells):
            rows.append((f"{length:,}", kernel, f"{dropout:g}", *(f"{cell:,}" if cell else "" for cell in cells)))
    print(markdown_table(("tokens", "kernel", "dropout", *flags.chips), rows))


def bundles(chip: str, kernel: str, length: int, dropout: float, window: int) -> int | None:
    """Returns the bundles of a head; None if the kernel cannot compute it, or the symmetric form is not taken."""
    target = find_slice(f"{chip}:{'x'.join('1' * TPUS[chip].axes)}")
    config = _make_config(kernel, length, dropout)
    mesh = make_slice_mesh(config, target)
    with jax.set_mesh(mesh):
        if any(kernels.problems(config.model.kernel, config.model, device(), length)):
            return None
    plan = Plan(ROWS, config.model.heads, length, target.chip.cores, dropout_rate=dropout, window=window)
    if config.model.attention == "symmetric" and not plan.has_symmetric_form:
        return None
    # the first layer is global, so a local one is the difference of two models
    layers = [(2, window), (1, 0)] if window else [(1, 0)]
    total, *first = (attention_cycles(_with_layers(config, *each), target, mesh, is_training=True) for each in layers)
    heads = ROWS * config.model.heads
    found = round((total - sum(first)) * target.chip.cores / heads)
    record("attention_bundles", chip=chip, kernel=kernel, length=length, dropout=dropout, window=window,
           bundles=found, libtpu=compiler_version())  # fmt: skip
    return found


def _make_config(kernel: str, length: int, dropout: float) -> Config:
    config = base.get_config()
    config.data.batch_size, config.mesh.fsdp = ROWS, False
    name, attention = KERNELS[kernel]
    config.model.update(kernel=name, attention=attention, length=length, attention_dropout=dropout)
    return freeze(config)


def _with_layers(config: Config, layers: int, window: int) -> Config:
    model = dataclasses.replace(config.model, layers=layers, window=window, global_every=2)
    return dataclasses.replace(config, model=model)


if __name__ == "__main__":
    main()
