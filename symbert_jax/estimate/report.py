"""The command `compile`: a report of memory, FLOPs and step time on a TPU slice."""

import dataclasses
import json
from typing import Any

import jax
from etils import epath

from symbert_jax.chips import GIB, Tpu
from symbert_jax.config import Config, phases
from symbert_jax.errors import UserError
from symbert_jax.estimate.batch_search import batch_text, with_fastest_batch
from symbert_jax.estimate.cost import PALLAS
from symbert_jax.estimate.programs import DoesNotFit
from symbert_jax.estimate.slices import find_slice
from symbert_jax.estimate.summary import Summary, summarize
from symbert_jax.storage import check_writable, write_whole


def report(config: Config, topology: str, find_batch: bool, out: epath.Path | None) -> None:
    """Prints the report of a config on a slice, one for each phase of the run.

    find_batch: whether to replace `data.batch_size` by the one that trains fastest, of those that fit.
    out: the file for the numbers as JSON, with `fits` false if the program does not fit; None: no file. The numbers of
      several phases are a list under the key `phases`.

    Raises:
      UserError: libtpu is not installed, no slice has that topology, the step cannot run on it or does not fit, or
        `out` cannot be written; or `find_batch` is set for a run of several phases.
    """
    if find_batch and len(phases(config)) > 1:
        hint = "compile the config of each phase alone, without train.phases and data.batch_warmup"
        raise UserError("find_batch", f"a run of {len(phases(config))} phases", "a run of one phase", hint)
    jax.config.update("jax_platforms", "cpu")  # so that JAX does not use the TPU or GPU of this machine
    jax.config.update("jax_enable_compilation_cache", False)  # the cache cannot read back programs for other machines
    target = find_slice(topology)
    if out:
        check_writable(out, "out")
    found: list[dict[str, Any]] = []
    phase = phases(config)[0]  # named if no batch fits
    try:
        if find_batch:
            config = with_fastest_batch(config, target)
        for phase in phases(config):
            summary = summarize(phase.config, target, phase.num_steps)
            if len(phases(config)) > 1:
                print(
                    f"steps {phase.steps.start:,} to {phase.steps.stop:,}: rows of {phase.config.model.length} tokens"
                )
            print(report_text(phase.config, summary, target.chip))
            found.append(dataclasses.asdict(summary))
    except DoesNotFit as refusal:
        if out:
            numbers = {"topology": topology, "fits": False} | vars(refusal)
            write_whole(out, json.dumps(numbers, indent=2) + "\n")
        raise phase.named(
            UserError(
                "data.batch_size",
                f"{phase.config.data.batch_size}, which needs {refusal.needed / GIB:.2f} GiB per chip of {topology}, "
                f"{(refusal.needed - refusal.available) / GIB:.2f} GiB too much",
                f"at most {refusal.available / GIB:.2f} GiB",
                "--find_batch finds the batch sizes that fit; model.remat, mesh.fsdp or more chips reduce memory",
            )
        ) from None
    if len(found) > 1:
        hours = sum(numbers["hours"] for numbers in found)
        print(f"{'all phases':<16} {hours:,.1f} hours for {config.train.steps:,} steps")
    if out:
        content = found[0] if len(found) == 1 else {"phases": found}
        write_whole(out, json.dumps(content, indent=2) + "\n")


def report_text(config: Config, summary: Summary, chip: Tpu) -> str:
    """Returns the report as lines, each a label and a text."""
    train, validation, cost = summary.train, summary.validation, summary.train.cost
    mesh = " x ".join(f"{name} {size}" for name, size in summary.mesh.items())
    collectives = [f"{c.count} {c.kind} over {c.group} chips, {c.bytes / 1e6:,.0f} MB" for c in cost.collectives]
    unestimated = ", ".join(f"{part.count} {part.kind}" for part in cost.unestimated) or "none"
    peak_times = ", ".join(f"{name} {seconds * 1e3:.1f} ms" for name, seconds in train.least_seconds.items())
    validation_scope = (
        f"with {config.train.validate_batches} validation batches every {config.train.validate_every:,} steps"
    )
    if not config.train.validate_batches:
        validation_scope = "not counting validation, which reads the whole split"
    lines = [
        ("model", f"{summary.attention} BERT, {summary.parameters:,} parameters; {summary.source}"),
        (
            "slice",
            f"{summary.topology}, {summary.chips} chips ({mesh}); {batch_text(summary.batch_size, summary.chips)}",
        ),
        (
            "memory per chip",
            f"{train.memory / GIB:.2f} of {summary.memory_available / GIB:.2f} GiB: "
            f"parameters {summary.memory_parameters / GIB:.2f}, optimizer {summary.memory_optimizer / GIB:.2f}, "
            f"temporaries {summary.memory_temporaries / GIB:.2f}; validation step {validation.memory / GIB:.2f}",
        ),
        (
            "FLOPs per step",
            f"{summary.model_flops / 1e12:,.2f} T of the model, "
            f"{summary.model_flops / summary.chips / 1e12:,.3f} T per chip; "
            f"matrix products of the program {cost.flops / 1e12:,.3f} T per chip",
        ),
        ("HBM traffic", f"{cost.bytes / 1e9:,.1f} GB per step and chip"),
        ("collectives", "; ".join(collectives) or "none"),
        (
            "step time",
            f"{train.seconds * 1e3:.1f} ms without overlap: {train.cycle_seconds * 1e3:.1f} for "
            f"{cost.cycles / 1e6:,.1f} M cycles at {chip.clock / 1e9} GHz, {train.roofline_seconds * 1e3:.1f} by the "
            f"roofline for work without an estimate ({unestimated}), {train.network_seconds * 1e3:.1f} for collectives",
        ),
        (
            "cycles by region",
            ", ".join(f"{name} {cycles / 1e6:,.1f} M" for name, cycles in cost.regions.items()),
        ),
        ("validation", f"{validation.seconds * 1e3:.1f} ms per batch"),
        ("throughput", f"{summary.tokens_per_second:,.0f} tokens/s, MFU {summary.mfu:.1%}"),
        ("training run", f"{summary.hours:,.1f} hours for {summary.steps:,} steps, {validation_scope}"),
        ("bound by", f"{summary.bound}; time at peak rates: {peak_times}"),
    ]
    if any(part.kind == PALLAS for part in cost.unestimated):
        lines.append(("warning", "this libtpu shows no schedule of the Pallas kernels, which take longer than counted"))
    if cost.unknown_loops:
        lines.append(("warning", f"{cost.unknown_loops} loops of unknown trip count are counted once"))
    return "\n".join(f"{label:<16} {text}" for label, text in lines)
