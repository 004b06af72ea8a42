"""Estimates of BERT-base and BERT-large on TPU slices, with attention by XLA: the table of docs/cost.md.

    .venv/bin/python -m bench.slices

Records one line per row and prints the table. A row whose report is in `--out=runs/slices` is not compiled again, so an
interrupted run continues. A row takes two or three CPU minutes, all 36 take one or two hours on 2 cores.
"""

import argparse
import concurrent.futures
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

from bench.record import record

# Batch sizes: the paper's 256, or 16 per chip on the smallest and the largest v5e slice.
BATCHES = {"v5e:4x4": 256, "v5e:2x4": 128, "v5e:16x16": 4096, "v5p:2x2x2": 256, "v6e:4x4": 256, "v4:2x2x2": 256}
CONFIGS = ("base", "large")
ATTENTIONS = ("standard", "symmetric", "pairwise")
PAPER_SEQUENCES = 200_000 * 256  # steps times batch size
COLUMNS = {
    "model": lambda r: r["model"],
    "slice": lambda r: r["topology"],
    "chips": lambda r: r["chips"],
    "attention": lambda r: r["attention"],
    "batch": lambda r: f"{r['batch_size']:,}",
    "GiB of HBM": lambda r: f"{r['train']['memory'] / 2**30:.1f} of {r['memory_available'] / 2**30:.2f}",
    "M cycles": lambda r: f"{r['train']['cost']['cycles'] / 1e6:,.0f}",
    "network ms": lambda r: f"{r['train']['network_seconds'] * 1e3:.1f}",
    "step ms": lambda r: f"{r['train']['seconds'] * 1e3:.0f}",
    "tokens/s": lambda r: f"{r['tokens_per_second']:,.0f}",
    "MFU": lambda r: f"{r['mfu']:.1%}",
    "hours": lambda r: f"{PAPER_SEQUENCES / r['batch_size'] * r['train']['seconds'] / 3600:.1f}",
    "bound by": lambda r: r["bound"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/slices"), help="the folder of the reports")
    parser.add_argument("--configs", nargs="+", default=CONFIGS)
    parser.add_argument("--topologies", nargs="+", default=BATCHES, choices=BATCHES)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="programs compiled at a time")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = list(itertools.product(arguments.configs, arguments.topologies, ATTENTIONS))

    def report(row: tuple[str, str, str]) -> str | None:
        """Compiles a row of the table unless its report exists; returns an error or None."""
        if (file := report_file(arguments.out, *row)).exists():
            return None
        write_report(*row, file)
        if not file.exists():  # the compiler crashed and has printed why
            return f"{' '.join(row)}: failed"
        record("slices", model=row[0], **json.loads(file.read_text()))
        return None

    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for failure in filter(None, pool.map(report, sorted(rows, key=lambda row: ATTENTIONS.index(row[2])))):
            print(failure, flush=True)
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for row in rows:
        file = report_file(arguments.out, *row)
        numbers = {"model": row[0]} | json.loads(file.read_text()) if file.exists() else {"fits": False}
        if numbers["fits"]:
            print(f"| {' | '.join(str(column(numbers)) for column in COLUMNS.values())} |")


def report_file(folder: Path, config: str, topology: str, attention: str) -> Path:
    return folder / f"{config}-{topology.replace(':', '-')}-{attention}.json"


def write_report(config: str, topology: str, attention: str, file: Path) -> None:
    """Writes the report of `compile` to `file`; also if the model does not fit, but not if the compiler crashes.

    The compiler estimates the cycles of XLA's attention, but not those of a Pallas kernel.
    """
    command = [sys.executable, "-m", "symbert_jax", "compile", f"--config=configs/{config}.py"]
    command += [f"--topology={topology}", f"--config.model.attention={attention}", "--config.model.kernel=xla"]
    command += [f"--config.data.batch_size={BATCHES[topology]}", f"--out={file}"]
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
