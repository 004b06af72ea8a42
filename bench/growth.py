"""How the cost of a training step grows with length, rows, layers and chips, by the TPU compiler's estimate.

    .venv/bin/python -m bench.growth

Records one line per program and writes a table (growth.md) and a log-log plot (growth.png) to `--out=runs/growth`.
A program whose JSON file is in that folder is not compiled again, so an interrupted run continues. Each sweep changes
one size of BERT-base in `configs/base_fast.py`, cut to a few unrolled layers, so that a program compiles in one or two
minutes, and all of them in an hour on 2 cores. The sweep over lengths keeps the number of tokens per chip constant.
`bench/estimate.py` says what the numbers include.
"""

import argparse
import dataclasses
import json
import math
import os
import pathlib

from bench.estimate import Case, estimates
from bench.record import record
from symbert_jax.config import ATTENTIONS
from symbert_jax.estimate.programs import KERNEL

BASE = Case("base_fast", "v5e:2x2", "standard", layers=2)
TOKENS = 8192  # per chip in the sweep over lengths
Sweeps = dict[str, list[tuple[int, Case]]]  # the sizes of each sweep with their programs
SWEEPS: Sweeps = {
    "length": [
        (length, dataclasses.replace(BASE, length=length, rows=TOKENS // length))
        for length in (128, 256, 512, 1024, 2048, 4096, 8192)
    ],
    "rows per chip": [(rows, dataclasses.replace(BASE, rows=rows)) for rows in (1, 2, 4, 8, 16, 32, 64)],
    "layers": [(layers, dataclasses.replace(BASE, layers=layers)) for layers in (1, 2, 4, 8)],
    "chips": [
        (chips, dataclasses.replace(BASE, topology=topology))
        for chips, topology in ((8, "v5e:2x4"), (16, "v5e:4x4"), (64, "v5e:8x8"), (256, "v5e:16x16"))
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/growth"), help="the folder of all files")
    parser.add_argument("--sweeps", nargs="+", default=SWEEPS, choices=SWEEPS)
    parser.add_argument("--attentions", nargs="+", default=ATTENTIONS, choices=ATTENTIONS)
    parser.add_argument("--kernel", default="auto", help="model.kernel")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="programs compiled at a time")
    flags = parser.parse_args()
    sweeps = {
        sweep: [(size, dataclasses.replace(case, kernel=flags.kernel)) for size, case in SWEEPS[sweep]]
        for sweep in flags.sweeps
    }
    cases = [
        dataclasses.replace(case, attention=attention)
        for sizes in sweeps.values()
        for _, case in sizes
        for attention in flags.attentions
    ]
    flags.out.mkdir(parents=True, exist_ok=True)
    files = {case: flags.out / f"{case.name}.json" for case in cases}
    for case, cost in estimates([case for case, file in files.items() if not file.exists()], flags.jobs):
        files[case].write_text(json.dumps(cost))
        record("growth", program=case.name, **cost)
    costs = {case: json.loads(file.read_text()) for case, file in files.items()}
    (flags.out / "growth.md").write_text(table(costs, sweeps, flags.attentions))
    plot(flags.out / "growth.png", costs, sweeps, flags.attentions)


def seconds(case: Case, cost: dict) -> float:
    """Returns the time of a step: cycles plus collectives, as if nothing overlapped."""
    return cost["cycles"] / case.chip.clock + cost["network_seconds"]


def least_seconds(case: Case, cost: dict) -> dict[str, float]:
    """Returns the seconds that each resource would take for a step if it worked at its peak and never waited."""
    compute, memory = cost["model_flops"] / case.chip.peak, cost["bytes"] / case.chip.bandwidth
    return {"compute": compute, "memory": memory, "network": cost["network_seconds"]}


def table(costs: dict[Case, dict], sweeps: Sweeps, attentions: list[str]) -> str:
    """Returns a Markdown table per sweep.

    A row holds the milliseconds of each attention, and for the first attention the slope from the row above in a
    log-log plot, the resource that takes longest alone, and the share of the cycles that the attention kernel takes.
    """
    lines = []
    for sweep, sizes in sweeps.items():
        columns = [sweep, *(f"{attention}, ms" for attention in attentions), "slope", "bound by", "kernel"]
        lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        previous = None
        for size, case in sizes:
            cases = [dataclasses.replace(case, attention=attention) for attention in attentions]
            times = [seconds(case, costs[case]) for case in cases]
            slope = f"{math.log(times[0] / previous[1]) / math.log(size / previous[0]):.2f}" if previous else ""
            cost = costs[cases[0]]
            alone = least_seconds(cases[0], cost)
            bound = max(alone, key=lambda name: alone[name])
            kernel = f"{cost['regions'].get(KERNEL, 0) / cost['cycles']:.0%}"
            cells = [f"{size:,}", *(f"{1e3 * time:.2f}" for time in times), slope, bound, kernel]
            lines.append(f"| {' | '.join(cells)} |")
            previous = size, times[0]
        lines.append("")
    return "\n".join(lines)


def plot(file: pathlib.Path, costs: dict[Case, dict], sweeps: Sweeps, attentions: list[str]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(sweeps), figsize=(4 * len(sweeps), 3.5), sharey=True, squeeze=False)
    for axis, (sweep, programs) in zip(axes[0], sweeps.items(), strict=True):
        for attention in attentions:
            points = [(size, dataclasses.replace(case, attention=attention)) for size, case in programs]
            sizes, times = zip(*((size, 1e3 * seconds(case, costs[case])) for size, case in points), strict=True)
            axis.loglog(sizes, times, "o-", base=2, label=attention)
        axis.set(xlabel=sweep, ylabel="step time, ms (estimate)", xticks=[size for size, _ in programs])
        axis.xaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.tick_params(axis="x", labelsize=8)
        axis.grid(alpha=0.3)
        axis.legend(loc="upper left")
    figure.tight_layout()
    figure.savefig(file, dpi=80)


if __name__ == "__main__":
    main()
