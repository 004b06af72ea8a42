"""Runs the command line in forks of one process, so that a test case does not pay for a start of Python and JAX."""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

ROOT = Path(__file__).parents[1]


class Result(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def run_commands(
    commands: Sequence[Sequence[str]], *, imports: Sequence[str] = (), cwd: Path = ROOT, **environment: str
) -> list[Result]:
    """Runs `python -m symbert_jax ARGUMENTS` for each list of arguments, one after the other; returns the results.

    imports: modules that are imported once for all commands.
    environment: environment variables of the commands, besides those of this process.
    """
    request = json.dumps({"commands": [list(map(str, command)) for command in commands], "imports": list(imports)})
    variables = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore:os.fork"} | environment
    # JSON keeps the surrogates that stand in sys.argv for bytes that are not UTF-8.
    done = subprocess.run(
        [sys.executable, "-m", "tests.command_line"],
        **{"input": request, "capture_output": True, "text": True, "cwd": cwd, "env": variables, "timeout": 300},
    )
    assert done.returncode == 0, done.stderr
    return [Result(*found) for found in json.loads(done.stdout)]


def _serve() -> None:
    """Reads commands from stdin, runs each in a fork of this process, and prints the results, all as JSON."""
    request = json.load(sys.stdin)
    from symbert_jax.__main__ import main  # imported once for all commands

    for name in request["imports"]:
        importlib.import_module(name)
    results = []
    for command in request["commands"]:
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            if not (child := os.fork()):
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                sys.argv = ["symbert_jax", *command]
                run_and_exit(lambda command=command: main(command))
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode(errors="replace"))
            results.append((code, *texts))
    json.dump(results, sys.stdout)


def run_and_exit(run: Callable[[], int]) -> NoReturn:
    """Calls `run` and ends this fork with its exit code, without the clean-up of Python, which is slow."""
    code: object = 1
    try:
        code = run()
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    _serve()
