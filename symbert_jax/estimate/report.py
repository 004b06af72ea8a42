"""What a config would cost on a TPU slice: the report of `aot`'s steps, and the largest batch that fits.

Nothing here is a measurement.
"""

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import jax
from etils import epath

from symbert_jax.chips import GIB, Tpu
from symbert_jax.config import Config
from symbert_jax.data.masking import max_predictions
from symbert_jax.errors import UserError
from symbert_jax.estimate.programs import DoesNotFit, Program, compile_train, compile_validation, mesh_of
from symbert_jax.estimate.slices import Slice, compiler_version, find_slice
from symbert_jax.model import bert
from symbert_jax.model.flops import train_flops
from symbert_jax.storage import check_writable, write_whole
from symbert_jax.train import state as states


def report(config: Config, topology: str, find_batch: bool, out: epath.Path | None) -> None:
    """Prints what `config` costs on `topology`, writes it to `out` as JSON.

    find_batch: with the largest batch that fits in the place of `data.batch_size`.

    Raises:
      UserError: the compiler is not installed, there is no such topology, or the program does not fit.
    """
    jax.config.update("jax_platforms", "cpu")  # chips that this machine may have are left alone
    jax.config.update("jax_enable_compilation_cache", False)  # it cannot read programs for other machines back
    target = find_slice(topology)
    if out:
        check_writable(out, "out")
    try:
        if find_batch:
            config = with_largest_batch(config, target)
        found = estimate(config, target)
    except DoesNotFit as refusal:
        if out:
            facts = {"topology": topology, "fits": False} | vars(refusal)
            write_whole(out, json.dumps(facts, indent=2) + "\n")
        raise UserError(
            "data.batch_size",
            f"{config.data.batch_size}, which takes {refusal.needed / GIB:.2f} GiB a chip of {topology}",
            f"at most {refusal.available / GIB:.2f} GiB, {(refusal.needed - refusal.available) / GIB:.2f} GiB less",
            "--find_batch finds the largest; model.remat, mesh.fsdp or more chips make room",
        ) from None
    print(describe(config, found, target.chip))
    if out:
        write_whole(out, json.dumps(dataclasses.asdict(found), indent=2) + "\n")


def describe(config: Config, found: Report, chip: Tpu) -> str:
    """The report for people."""
    train, validation, cost = found.train, found.validation, found.train.cost
    mesh = " x ".join(f"{name} {size}" for name, size in found.mesh.items())
    exchanges = [f"{c.count} {c.kind} over {c.group} chips, {c.bytes / 1e6:,.0f} MB" for c in cost.collectives]
    missing = ", ".join(f"{part.count} {part.kind}" for part in cost.unestimated) or "none"
    times = (
        f"{train.cycle_seconds * 1e3:.1f} of {cost.cycles / 1e6:,.1f} M cycles at {chip.clock / 1e9} GHz"
        f" + {train.roofline_seconds * 1e3:.1f} of work without an estimate, at its roofline ({missing})"
        f" + {train.network_seconds * 1e3:.1f} of network"
    )
    alone = ", ".join(f"{name} {seconds * 1e3:.1f} ms" for name, seconds in train.least_seconds.items())
    validations = f"{config.train.validate_batches} batches of validation every {config.train.validate_every:,} steps"
    if not config.train.validate_batches:
        validations = "validation over the whole split not counted"
    lines = [
        ("what", f"{found.attention} BERT, {found.parameters:,} parameters; {found.source}"),
        ("where", f"{found.topology}, {found.chips} chips ({mesh}); {_rows(found.batch_size, found.chips)}"),
        (
            "memory a chip",
            f"{train.memory / GIB:.2f} of {found.memory_available / GIB:.2f} GiB: "
            f"parameters {found.memory_parameters / GIB:.2f}, optimizer {found.memory_optimizer / GIB:.2f}, "
            f"temporaries {found.memory_temporaries / GIB:.2f}; validation {validation.memory / GIB:.2f}",
        ),
        (
            "FLOPs a step",
            f"{found.model_flops / 1e12:,.2f} T by the model, {found.model_flops / found.chips / 1e12:,.3f} T a chip; "
            f"the program's matrix products {cost.flops / 1e12:,.3f} T a chip",
        ),
        ("moved a step", f"{cost.bytes / 1e9:,.1f} GB of HBM a chip"),
        ("collectives", "; ".join(exchanges) or "none"),
        ("ms a step", f"{train.seconds * 1e3:.1f} = {times}, as if nothing overlapped"),
        (
            "cycles by region",
            ", ".join(f"{name} {cycles / 1e6:,.1f} M" for name, cycles in cost.regions.items()),
        ),
        ("ms a validation", f"{validation.seconds * 1e3:.1f} a batch"),
        ("speed", f"{found.tokens_per_second:,.0f} tokens/s, MFU {found.mfu:.1%}"),
        ("the run", f"{found.hours:,.1f} hours for {config.train.steps:,} steps, {validations}"),
        ("bound by", f"{found.bound}; each alone would take: {alone}"),
    ]
    if cost.unknown_loops:
        lines.append(("beware", f"{cost.unknown_loops} loops of unknown length are counted once"))
    return "\n".join(f"{name:<16} {text}" for name, text in lines)


def _rows(batch_size: int, chips: int) -> str:
    return f"batch {batch_size:,}, {batch_size / chips:g} rows a chip"
