"""Runs or checks every command of the documents, each by the first rule of `tests/command_rules.py` that matches it.

1. `tests/documents.py` makes a bash script from each document; a command keeps its line number.
2. `tests/stand_in.py` fills a folder that takes the place of a user's working directory, with short texts and the
   documented configs, cut to a tiny size. bash runs the scripts there, so loops, quotes and variables work as usual.
3. bash finds no programs. For each program that a script calls, PRELUDE or a file such as .venv/bin/python starts
   CLIENT, which sends the command to this process and ends with the exit code that it receives.
4. `Server` looks for the first rule that matches "DOCUMENT: COMMAND", and calls its check in a fork of this process,
   which has imported JAX once for all. The exit code of the check is that of the command: `run` runs it, `parse` reads
   its flags and its config and stops where the work would begin, others check whether a target or a package exists.
5. For each command with an exit code other than 0, bash prints "FAILED DOCUMENT:LINE: COMMAND".

`python -m tests.documented_commands FOLDER` reads {document: script} as JSON from stdin, and prints
{"failed": {document: output}, "unused": [rule]}.
"""

import importlib
import json
import marshal
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from tests import stand_in
from tests.command_line import run_and_exit
from tests.command_rules import RULES, SCRIPTS, Command, skip

# Modules that are imported once, before the forks, by their names in symbert_jax.
PRELOADED = (
    *(
        "compare",
        "estimate.report",
        "data.prepare.command",
        "data.prepare.beam_options",
        "train.doctor",
        "eval.finetune",
        "inference",
        "interop.export",
    ),
    *("interop.import_", "train.loop"),
)
# Values for the placeholders in documents.
PLACEHOLDERS = {"FILE": "configs/mini.py", "HOST": "localhost", "PORT": "8476", "I": "0", "N": "2", "NAME": "peers"}

# The client imports neither socket nor json, because their import takes longer than the start of Python.
CLIENT = """
import _socket, marshal, os, sys
server = _socket.socket(fileno=int(os.environ["SERVER"]))
request = marshal.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)])
files = b"".join(number.to_bytes(4, sys.byteorder) for number in range(3))
server.sendmsg([request], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, files)])
sys.exit(int(server.recv(16)))
"""
# The text of every program that scripts call by its path.
PROGRAM = '#!/bin/bash\n"$PYTHON" -IS client.py "$0" "$@"\n'
PRELUDE = r"""
PATH=/nowhere
command_not_found_handle() { "$PYTHON" -IS client.py "$@"; }
ulimit() { command_not_found_handle ulimit "$@"; }  # builtins
kill() { command_not_found_handle kill "$@"; }
expect_output() { # compares its input with file 9; documents omit the path of the working directory
  local found wanted
  IFS= read -r -d '' found
  IFS= read -r -d '' -u 9 wanted
  found=${found//"$PWD/"/}
  [[ $found == "$wanted" ]] || { printf 'found:\n%s\nwanted:\n%s\n' "$found" "$wanted" >&2; return 1; }
}
trap 'echo "FAILED $PAGE:$LINENO: $BASH_COMMAND" >&2' ERR
"""
# Commands that run first. They make what the documents need: the corpora, and the first phase of a recipe.
SETUP = """
for config in tiny wiki_books; do python -m symbert_jax prepare --config=configs/$config.py; done
python -m symbert_jax prepare --config=configs/base.py --config.data.sources='jsonl:wiki/*.jsonl.gz,bookcorpus:books'
python -m symbert_jax pretrain --config=configs/base.py --workdir=runs/phase1 --config.model.attention=pairwise
"""


class Server:
    """Runs scripts in the current directory, and collects failures and unused rules."""

    def __init__(self) -> None:
        self.unused = list(RULES)
        self.failed: dict[str, str] = {}  # the output of the scripts that failed, by document

    def run(self, name: str, script: str) -> None:
        """Runs the script of a document in bash, and answers each of its commands."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        variables = {"PYTHON": sys.executable, "BASH_ENV": "prelude.sh", "PAGE": name, "SERVER": str(theirs.fileno())}
        with (
            tempfile.TemporaryFile() as output,
            subprocess.Popen(
                ["/bin/bash", "-c", f"{script}\nexit 0"],
                pass_fds=[theirs.fileno()],
                env=os.environ | variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            ) as shell,
        ):
            theirs.close()
            while (request := socket.recv_fds(ours, 1 << 20, 3))[0]:
                ours.send(str(self._answer(name, *marshal.loads(request[0]), request[1])).encode())
            output.seek(0)
            text = output.read().decode(errors="replace")
            if shell.wait() or "\nFAILED " in f"\n{text}":
                self.failed[name] = text

    def _answer(self, name: str, command: Command, cwd: str, variables: dict[str, str], files: list[int]) -> int:
        """Checks a command in a fork, with the environment and streams of its caller; returns the exit code."""
        line = f"{name}: {' '.join(command)}"
        rule = next((rule for rule in RULES if re.fullmatch(rule, line, re.DOTALL)), None)
        if rule in self.unused:
            self.unused.remove(rule)
        child = 0
        if (rule is None or RULES[rule] is not skip) and not (child := os.fork()):
            for number, file in enumerate(files):
                os.dup2(file, number)
            os.environ |= variables | {"PATH": os.environ["PATH"], "BASH_ENV": ""}
            os.chdir(cwd)
            sys.path.insert(0, cwd)
            run_and_exit(partial(_check, rule, command))
        for file in files:
            os.close(file)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if child else 0


def _check(rule: str | None, command: Command) -> int:
    """Checks a command by its rule, with values for placeholders; returns the exit code."""
    if rule is None:
        print("no rule in tests/command_rules.py matches this command", file=sys.stderr)
        return 1
    return RULES[rule](
        [re.sub(r"\b[A-Z]+\b", lambda found: PLACEHOLDERS.get(found[0], found[0]), word) for word in command]
    )


def main(folder: Path) -> None:
    scripts = json.load(sys.stdin)
    os.chdir(folder)
    os.environ["TFDS_DATA_DIR"] = str(folder / "tfds")
    for name in (
        *(f"symbert_jax.{module}" for module in PRELOADED),
        *(f"configs.{name}" for name in stand_in.CONFIG_NAMES),
    ):
        importlib.import_module(name)
    if not (child := os.fork()):  # in a fork, because ArrayRecord's threads would not survive the later forks
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        run_and_exit(partial(stand_in.write, folder))
    os.waitpid(child, 0)
    Path("client.py").write_text(CLIENT)
    Path("prelude.sh").write_text(PRELUDE)
    for program in (
        ".venv/bin/python",
        ".venv/bin/pre-commit",
        "bench/gpu_check.sh",
        *(f"launch/{script}.sh" for script in SCRIPTS),
    ):
        Path(program).parent.mkdir(parents=True, exist_ok=True)
        Path(program).write_text(PROGRAM)
        Path(program).chmod(0o755)
    server = Server()
    server.run("setup", SETUP)
    if not server.failed:
        for name in ("pairwise", "first"):
            shutil.copytree("runs/phase1", f"runs/{name}")
        Path("runs/phase1/checkpoints/4").rename("runs/phase1/checkpoints/90000")
        shutil.copytree("runs/phase1", "runs/trunk")
        for step in (70_000, 80_000):
            shutil.copytree("runs/trunk/checkpoints/90000", f"runs/trunk/checkpoints/{step}")
        for name, script in scripts.items():
            server.run(name, script)
    json.dump({"failed": server.failed, "unused": server.unused}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
