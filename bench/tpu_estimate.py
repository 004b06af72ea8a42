"""The training step by the TPU compiler's own estimate, beside the numbers committed in tpu_estimate.json.

    .venv/bin/python -m bench.tpu_estimate

Records each program, and prints what differs from the committed numbers by more than 1%; `--commit` replaces them.
Three to ten CPU minutes a program. What the numbers are and are not: `bench/estimate.py`.
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
    for case, found in estimates(cases, flags.jobs):
        record("tpu_estimate", program=case.name, **found)
        for field, old, new in differences(committed.get(case.name, {}), found):
            change = f"{field} was {old:,}, is {new:,} ({new / old - 1:+.1%})" if old else f"{field} is new: {new:,}"
            print(f"{case.name}: {change}")
        if flags.commit:
            committed[case.name] = found
            COMMITTED.write_text(json.dumps(committed, indent=1) + "\n")


def differences(old: dict, new: dict) -> list[tuple[str, float, float]]:
    """(field, old, new) of every number that moved by more than `TOLERANCE`; a kind without estimate that is new."""
    flat = [
        (field, old[field], new[field])
        for field in ("cycles", "bytes", "flops", "collective_bytes", "collectives", "memory")
        if field in old
    ]
    for part in ("regions", "unestimated"):
        fields = old.get(part, {}).keys() | new[part].keys() if part in old else ()
        flat += [(f"{part} {field}", old[part].get(field, 0), new[part].get(field, 0)) for field in sorted(fields)]
    return [
        (field, was, now)
        for field, was, now in flat
        if abs(now - was) > TOLERANCE * max(was, old["cycles"] / 100 if field.startswith("regions") else 0)
    ]


if __name__ == "__main__":
    main()
