"""Searches for inputs that cause a fault, for a number of minutes.

    .venv/bin/python -m bench.fuzz --minutes=20
    .venv/bin/python -m bench.fuzz --kinds glue-files --seed=0 --only=17

Kinds take turns of equal time. Prints a table and an example of each fault, and exits with 1 if there is a fault. The
second command repeats one attempt and prints its outcome.
"""

import argparse
import collections
import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.fuzz.worker import Worker
from bench.record import record

TURN = 3.0  # seconds until the next kind takes its turn


def main() -> int:
    """Runs a campaign or repeats one attempt; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=20.0, help="how long to search")
    parser.add_argument("--kinds", nargs="*", default=[], help="names of kinds of input; by default all of them")
    parser.add_argument("--seed", type=int, default=0, help="the same seed makes the same attempts")
    parser.add_argument("--only", type=int, help="the number of one attempt to repeat; its outcome is printed in full")
    flags = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryDirectory(prefix="fuzz_", ignore_cleanup_errors=True) as scratch:
        os.environ["TMPDIR"] = scratch
        with contextlib.closing(Worker(Path(scratch))) as worker:
            names = flags.kinds or worker.kinds
            if unknown := set(names) - set(worker.kinds):
                parser.error(f"no kind {', '.join(unknown)}; known are {', '.join(worker.kinds)}")
            if flags.only is None:
                return campaign(worker, names, flags.minutes, flags.seed)
            for name in names:
                print(json.dumps({"kind": name} | worker.attempt(name, flags.seed, flags.only), indent=2))
            return 0


def campaign(worker: Worker, names: list[str], minutes: float, seed: int) -> int:
    """Makes attempts until the time is over and prints the table; returns 1 if there was a fault."""
    counts: dict[str, collections.Counter[str]] = {name: collections.Counter() for name in names}
    examples: dict[tuple[str, str], dict[str, Any]] = {}  # the first outcome of each fault, by kind and fault
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        for name in names:
            turn_end = min(end, time.monotonic() + TURN)
            while time.monotonic() < turn_end:
                index = counts[name]["inputs"]  # the number of attempts so far
                outcome = worker.attempt(name, seed, index)
                counts[name].update(("inputs", outcome["result"], *["warned"] * outcome["warned"]))
                if outcome["result"] == "fault":
                    example = examples.setdefault((name, outcome["fault"]), {"count": 0, "only": index} | outcome)
                    example["count"] += 1
        print(f"{sum(count['inputs'] for count in counts.values()):,} inputs", file=sys.stderr, flush=True)
    columns = ("inputs", "success", "user error", "warned", "fault")
    total = sum(counts.values(), collections.Counter[str]())
    print("| kind | " + " | ".join(columns) + " |\n| --- |" + " ---: |" * len(columns))
    for name, count in (*counts.items(), ("all", total)):
        print(f"| {name} | " + " | ".join(f"{count[column]:,}" for column in columns) + " |")
    for (name, fault), example in sorted(examples.items()):
        print(f"\n{name}: {example['count']} x {fault}\n  {example['detail']}")
        print(f"  --kinds {name} --seed {seed} --only {example['only']}")
        for line in example["history"]:
            print(f"    {ascii(line)[1:-1][:300]}")
    record(
        "fuzz",
        minutes=minutes,
        seed=seed,
        inputs=total["inputs"],
        kinds={name: dict(count) for name, count in counts.items()},
        faults=[
            {"kind": name, "fault": fault, "only": example["only"]}
            for (name, fault), example in sorted(examples.items())
        ],
    )
    return 1 if examples else 0


if __name__ == "__main__":
    sys.exit(main())
