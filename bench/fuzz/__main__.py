"""Whether anything that a user gives ends in a traceback: changed inputs of every kind, for as many minutes as asked.

    .venv/bin/python -m bench.fuzz --minutes=20
    .venv/bin/python -m bench.fuzz --kinds glue-files --seed=0 --only=17

An input ends in success, in an error told to the user, or in a fault: another exception, a traceback that is printed, a
crash, more than 20 s, or more than 4 GiB. Kinds take turns, each for the same time. Prints a table and an example of
each fault, which the second form repeats; exits with 1 if there is a fault.
"""

import argparse
import collections
import contextlib
import faulthandler
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench.record import record

TURN = 3.0  # seconds of a kind before the next one has its turn
PATIENCE = 60.0  # seconds after which an input that did not even heed its alarm is a fault
# A worker that has more than this is replaced, before what libraries leave behind becomes a fault of an input.
THREADS, FILES, MEMORY = 400, 400, 6 << 30


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--kinds", nargs="*", default=[], help="of bench/fuzz_kinds.py; by default all of them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of one input, which is told in full")
    flags = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryDirectory(prefix="fuzz_", ignore_cleanup_errors=True) as scratch:
        os.environ["TMPDIR"] = scratch
        worker = Worker(Path(scratch))
        names = flags.kinds or worker.kinds
        if unknown := set(names) - set(worker.kinds):
            parser.error(f"no kind {', '.join(unknown)}; known are {', '.join(worker.kinds)}")
        with contextlib.closing(worker):
            if flags.only is not None:
                for name in names:
                    print(json.dumps({"kind": name} | worker.attempt(name, flags.seed, flags.only), indent=2))
                return 0
            return campaign(worker, names, flags.minutes, flags.seed)


def campaign(worker: "Worker", names: list[str], minutes: float, seed: int) -> int:
    """Tries inputs until the time is up; 1 if there was a fault."""
    counts: dict[str, collections.Counter[str]] = {name: collections.Counter() for name in names}
    faults: dict[tuple[str, str], dict[str, Any]] = {}
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        for name in names:
            turn = min(end, time.monotonic() + TURN)
            while time.monotonic() < turn:
                index = counts[name]["inputs"]
                outcome = worker.attempt(name, seed, index)
                counts[name].update(("inputs", outcome["result"], *["warned"] * outcome["warned"]))
                if outcome["result"] == "fault":
                    fault = faults.setdefault((name, outcome["fault"]), {"count": 0, "only": index} | outcome)
                    fault["count"] += 1
        print(f"{sum(count['inputs'] for count in counts.values()):,} inputs", file=sys.stderr, flush=True)
    columns = ("inputs", "success", "user error", "warned", "fault")
    total = sum(counts.values(), collections.Counter[str]())
    print("| kind | " + " | ".join(columns) + " |\n| --- |" + " ---: |" * len(columns))
    for name, count in (*counts.items(), ("all", total)):
        print(f"| {name} | " + " | ".join(f"{count[column]:,}" for column in columns) + " |")
    for (name, fault), found in sorted(faults.items()):
        print(f"\n{name}: {found['count']} x {fault}\n  {found['detail']}")
        print(f"  --kinds {name} --seed {seed} --only {found['only']}")
        for line in found["story"]:
            print(f"    {ascii(line)[1:-1][:300]}")
    record(
        "fuzz",
        minutes=minutes,
        seed=seed,
        inputs=total["inputs"],
        kinds={name: dict(count) for name, count in counts.items()},
        faults=[
            {"kind": name, "fault": fault, "only": found["only"]} for (name, fault), found in sorted(faults.items())
        ],
    )
    return 1 if faults else 0


class Worker:
    """A process that tries one input after the other; a new one when it dies, hangs, or has grown."""

    def __init__(self, scratch: Path):
        self.log = scratch / "log"
        self._start()

    def attempt(self, name: str, seed: int, index: int) -> dict[str, Any]:
        """The outcome of an input (see `attempts.Outcome`), by its fields."""
        self.connection.send((name, seed, index))
        try:
            if not self.connection.poll(PATIENCE):
                return self._lost(f"no end in {PATIENCE:.0f} s, nor by a signal")
            outcome, grown = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            return self._lost(f"the process ended with {self.process.exitcode}")
        if grown:
            self.close()
            self._start()
        return outcome

    def close(self) -> None:
        self.connection.close()  # at which it leaves
        self.process.join(5)
        self.process.kill()
        self.process.join()

    def _lost(self, fault: str) -> dict[str, Any]:
        self.close()
        detail = " ".join(self.log.read_text(errors="replace")[-1000:].split())
        self._start()
        return {"result": "fault", "story": [], "warned": False, "fault": fault, "detail": detail}

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, self.log), daemon=True)
        self.process.start()
        theirs.close()
        self.kinds: list[str] = self.connection.recv()


def work(connection: Connection, log: Path) -> None:
    """What a worker does: answers the names of the kinds, then every (kind, seed, index) with its outcome."""
    from bench.fuzz.attempts import attempt
    from bench.fuzz.kinds import command_line as fuzz_kinds

    with log.open("ab") as file, open(os.devnull) as nothing:  # what libraries write past Python is not for the screen
        for own, of in ((0, nothing), (1, file), (2, file)):
            os.dup2(of.fileno(), own)
    faulthandler.enable(2, all_threads=False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    connection.send([*fuzz_kinds.KINDS])
    while True:
        try:
            name, seed, index = connection.recv()
        except EOFError:  # the parent closed it
            return
        os.ftruncate(2, 0)
        outcome = attempt(fuzz_kinds.kind(name), random.Random(f"{seed}/{name}/{index}"))
        connection.send((outcome._asdict(), _grown()))


def _grown() -> bool:
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    threads, files = (len(os.listdir(f"/proc/self/{folder}")) for folder in ("task", "fd"))
    return threads > THREADS or files > FILES or memory > MEMORY


if __name__ == "__main__":
    sys.exit(main())
