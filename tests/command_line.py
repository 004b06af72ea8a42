"""The command line in forks of one process: a case costs what its command does, not a start of Python and JAX."""

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
    """What `python -m symbert_jax ARGUMENTS` does for each list of arguments, one after the other.

    imports: modules that are imported once for all of them.
    """
    order = json.dumps({"commands": [list(map(str, command)) for command in commands], "imports": list(imports)})
    variables = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore:os.fork"} | environment
    # a surrogate stands for a byte that is no UTF-8, as it does in sys.argv
    done = subprocess.run(
        [sys.executable, "-m", "tests.command_line"],
        **{"input": order, "capture_output": True, "text": True, "cwd": cwd, "env": variables, "timeout": 300},
    )
    assert done.returncode == 0, done.stderr
    return [Result(*found) for found in json.loads(done.stdout)]


def _serve() -> None:
    order = json.load(sys.stdin)
    from symbert_jax.__main__ import main  # what every command imports

    for name in order["imports"]:
        importlib.import_module(name)
    found = []
    for command in order["commands"]:
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            if not (child := os.fork()):
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                sys.argv = ["symbert_jax", *command]
                end(lambda command=command: main(command))
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode(errors="replace"))
            found.append((code, *texts))
    json.dump(found, sys.stdout)


def end(run: Callable[[], int]) -> NoReturn:
    """Ends a fork as Python ends, without its clean-up, which takes longer than most commands."""
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
