"""Runs of `finetune` in forks of a process that has imported everything, so that no run repeats the imports.

`python -m tests.eval.forked_runs ARGUMENTS` takes the arguments of two runs as JSON, and prints exit codes and outputs
of their processes as JSON. The runs, and their workdirs in the current directory, have the names `killed` and `two`.
`killed` is started three times; a signal kills the first two processes in the middle of their second write to
trials.jsonl. `two` runs as two processes.
"""

import json
import os
import signal
import sys
from pathlib import Path

import jax

import symbert_jax.eval.finetune  # noqa: F401  before the forks
from symbert_jax.__main__ import main
from symbert_jax.eval import trials
from tests.processes import free_port

KILLS = {1: signal.SIGTERM, 2: signal.SIGKILL}  # signals, by the number of complete lines in trials.jsonl


def start(arguments: list[str], output: Path, devices: int = 1, *, is_killed: bool = False) -> int:
    """Starts `symbert_jax` in a fork that writes its output to a file; returns the process id.

    is_killed: whether a signal of KILLS ends the process in its second write to trials.jsonl.
    """
    if child := os.fork():
        return child
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    jax.config.update("jax_num_cpu_devices", devices)
    if is_killed:
        kill_in_second_write()
    sys.argv = ["symbert_jax", *arguments]
    sys.exit(main(arguments))


def wait(child: int, output: Path) -> tuple[int, str]:
    """Returns the exit code and the output of a fork."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), output.read_text()


def kill_in_second_write() -> None:
    """Interrupts the second write to trials.jsonl by a signal, if KILLS has one for the number of lines in the file."""
    append_json, writes = trials.append_json, []

    def append_or_die(file, value) -> None:
        writes.append(value)
        lines = file.read_text().count("\n") if file.exists() else 0
        if len(writes) == 2 and lines in KILLS:
            with file.open("a") as opened:
                opened.write(json.dumps(value)[:20])
            os.kill(os.getpid(), KILLS[lines])
        append_json(file, value)

    trials.append_json = append_or_die


def run(arguments: dict[str, list[str]]) -> None:
    """Runs `killed` and then `two`, each with its `arguments`; prints the results as JSON."""
    killed_results, output = [], Path("output")
    for _ in range(3):
        killed_results.append(wait(start([*arguments["killed"], "--workdir=killed"], output, is_killed=True), output))
    flags = [*arguments["two"], "--workdir=two", f"--coordinator=127.0.0.1:{free_port()}", "--processes=2"]
    outputs = [Path(f"output{i}") for i in range(2)]
    children = [start([*flags, f"--process={i}"], outputs[i], devices=2) for i in range(2)]
    print(json.dumps({"killed": killed_results, "two": list(map(wait, children, outputs))}))


if __name__ == "__main__":
    run(json.loads(sys.argv[1]))
