"""Estimates of the training step on TPUs, compared with the numbers committed in tpu_estimate.json.

    .venv/bin/python -m bench.tpu_estimate

Records one line per program and prints which numbers differ from the committed ones by more than 1%; `--commit` writes
the new numbers to that file. A program takes three to ten CPU minutes. `bench/estimate.py` says what the numbers
include.
"""

import argparse
import itertools
import json
import os
import pathlib

from bench.estimate import CONFIGS, Case, estimates
from bench.record import record
from symbert_jax.config import ATTENTIONS

COMMITTED = pathlib.Path(__file__).with_suffix(".json")
TOPOLOGIES = ("v5e:4x4", "v6e:4x4", "v5p:2x2x2")
TOLERANCE = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", default=CONFIGS, choices=CONFIGS)
    parser.add_argument("--topologies", nargs="+", default=TOPOLOGIES)
    parser.add_argument("--attentions", nargs="+", default=ATTENTIONS, choices=ATTENTIONS)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="programs compiled at a time")
    parser.add_argument("--commit", action="store_true", help="write the numbers to tpu_estimate.json")
    flags = parser.parse_args()
    committed = json.loads(COMMITTED.read_text()) if COMMITTED.exists() else {}
    cases = [Case(*names) for names in itertools.product(flags.configs, flags.topologies, flags.attentions)]
    for case, cost in estimates(cases, flags.jobs):
        record("tpu_estimate", program=case.name, **cost)
        for field, old, new in differences(committed.get(case.name, {}), cost):
            change = f"{field} was {old:,}, is {new:,} ({new / old - 1:+.1%})" if old else f"{field} is new: {new:,}"
            print(f"{case.name}: {change}")
        if flags.commit:
            committed[case.name] = cost
            COMMITTED.write_text(json.dumps(committed, indent=1) + "\n")


def differences(old: dict, new: dict) -> list[tuple[str, float, float]]:
    """Returns (field, old, new) of every number that changed by more than `TOLERANCE`, and of every new kind of work.

    The change of a region is relative to its old cycles or to 1% of all old cycles, whichever is more.
    """
    numbers = [
        (field, old[field], new[field])
        for field in ("cycles", "bytes", "flops", "collective_bytes", "collectives", "memory")
        if field in old
    ]
    for part in ("regions", "unestimated"):
        fields = old.get(part, {}).keys() | new[part].keys() if part in old else ()
        numbers += [(f"{part} {field}", old[part].get(field, 0), new[part].get(field, 0)) for field in sorted(fields)]
    return [
        (field, before, after)
        for field, before, after in numbers
        if abs(after - before) > TOLERANCE * max(before, old["cycles"] / 100 if field.startswith("regions") else 0)
    ]


if __name__ == "__main__":
    main()
