"""Runs or checks every command of the documents, each by the rule of `RULES` that matches it.

1. `tests/documents.py` makes a bash script from each document; a command keeps its line number.
2. `tests/stand_in.py` fills a folder that takes the place of a user's working directory, with short texts and the
   documented configs, cut to a tiny size. bash runs the scripts there, so loops, quotes and variables work as usual.
3. bash finds no programs. For each program that a script calls, PRELUDE or a file such as .venv/bin/python starts
   CLIENT, which sends the command to this process and ends with the exit code that it receives.
4. `Server` looks for the first rule that matches "DOCUMENT: COMMAND", and calls its check in a fork of this process,
   which has imported JAX once for all. The exit code of the check is that of the command: `run` runs it, `parse` reads
   its flags and its config and stops where the work would begin, others check whether a target or a package exists.
5. For each command with an exit code other than 0, bash prints "FAILED DOCUMENT:LINE: COMMAND".

A new command in a document needs no work if an existing rule fits, in most cases that of `run`. Otherwise add a rule,
above the others that match. A rule that matches no command is reported as unused.

`python -m tests.documented_commands FOLDER` reads {document: script} as JSON from stdin, and prints
{"failed": {document: output}, "unused": [rule]}.
"""

import argparse
import importlib
import json
import marshal
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

from absl import flags

from symbert_jax.config import Config, FinetuneConfig
from tests import stand_in
from tests.command_line import run_and_exit
from tests.documents import ROOT

Command = list[str]  # a program and its arguments

# Modules that are imported once, before the forks, by their names in symbert_jax.
PRELOADED = (
    *("compare", "estimate.report", "data.prepare", "train.doctor", "eval.finetune", "inference", "interop.export"),
    *("interop.import_", "train.loop"),
)
# The function with which each command begins its work, by module. `parse` replaces them by mocks.
ENTRY_POINTS = {
    "data.prepare": "prepare",
    "distributed": "join",
    "train.loop": "pretrain",
    "train.doctor": "check",
    "interop.export": "export",
    "interop.import_": "import_",
    "estimate.report": "report",
    "inference": "fill",
    "compare": "compare",
}
# Values for the placeholders in documents.
PLACEHOLDERS = {"FILE": "configs/mini.py", "HOST": "localhost", "PORT": "8476", "I": "0", "N": "2", "NAME": "peers"}

# the scripts in launch/
SCRIPTS = ("tpu_vm", "gce", "gke", "xpk", "slurm", "local")
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
# Commands that run before those of the documents, and make the corpora and the first phase of a recipe that these need.
SETUP = """
for config in tiny wiki_books; do python -m symbert_jax prepare --config=configs/$config.py; done
python -m symbert_jax prepare --config=configs/base.py --config.data.sources='jsonl:wiki/*.jsonl.gz,bookcorpus:books'
python -m symbert_jax pretrain --config=configs/base.py --workdir=runs/phase1 --config.model.attention=pairwise
"""


def run(command: Command) -> int:
    """Runs `python -m symbert_jax …`."""
    from symbert_jax.__main__ import main

    sys.argv = ["symbert_jax", *command[3:]]
    return main(sys.argv[1:])


def run_installed(command: Command) -> int:
    """Runs `symbert …`, the installed command."""
    return run(["python", "-m", "symbert_jax", *command[1:]])


def run_doctor(command: Command) -> int:
    """Runs `doctor` in place of a `pretrain` that would take long."""
    return run([*command[:3], "doctor", *command[4:]])


def parse(command: Command) -> int:
    """Checks flags, fields and limits with the documented configs: runs a command up to where its work begins."""
    from symbert_jax.eval.protocols import resolve
    from symbert_jax.eval.tasks import find_tasks

    os.chdir(ROOT)
    for module, name in ENTRY_POINTS.items():
        mock.patch(f"symbert_jax.{module}.{name}").start()
    finetune = importlib.import_module("symbert_jax.eval.finetune")
    finetune.finetune = lambda config, workdir: (resolve(config), find_tasks(config.tasks))
    return run([word for word in command if word != "…"])


def parse_flags(prefix: str, command: Command) -> int:
    """Parses flags that a document names without their command, after a `prefix` that completes the command."""
    return parse(["python", "-m", "symbert_jax", *prefix.split(), *command[1:]])


def parse_import_flag(command: Command) -> int:
    """Parses a flag of `import` that a document names without its value."""
    return parse_flags("import --source=x --workdir=x", [*command, "x"])


def run_python(command: Command) -> int:
    """Runs a block of Python from stdin."""
    exec(compile(sys.stdin.read(), command[-1], "exec"), {"__name__": "__main__"})
    return 0


def parse_bench(command: Command) -> int:
    """Runs a bench until it has read its flags."""
    # A document may write `python -m bench.peers` or only `bench.peers`.
    start = next(i for i, word in enumerate(command) if word.startswith("bench."))
    sys.argv = command[start:]
    os.chdir(ROOT)
    flags.FLAGS.__dict__["__flags"].clear()  # forgets the flags of symbert_jax
    for parser, method in ((argparse.ArgumentParser, "parse_args"), (flags.FlagValues, "__call__")):
        setattr(parser, method, _exit_after(getattr(parser, method)))
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    return 1  # the bench ended without reading flags


def parse_bench_flags(prefix: str, command: Command) -> int:
    """Parses flags that a document names without their bench, after a `prefix` that completes the command."""
    return parse_bench([*prefix.split(), *command[1:]])


def _exit_after(method: Callable) -> Callable:
    def call_and_exit(*arguments: object) -> None:
        method(*arguments)
        sys.exit(0)

    return call_and_exit


def check_launch(command: Command) -> int:
    """Checks that a launch script accepts its arguments, and that `pretrain` accepts the flags after `--`."""
    script, *arguments = command
    end = arguments.index("--") if "--" in arguments else len(arguments)
    subprocess.run(
        [ROOT / script, *arguments[:end], "--dry-run", *arguments[end:]], check=True, stdout=subprocess.DEVNULL
    )
    return parse_flags(f"pretrain --config={os.environ['CONFIG']} --workdir={os.environ['WORKDIR']}", arguments[end:])


def check_launch_flags(command: Command) -> int:
    """Checks that every launch script has the flag."""
    for script in SCRIPTS:
        text = subprocess.check_output([ROOT / "launch" / f"{script}.sh", "--help"], text=True)
        assert command[1] in f"--help {text}", script
    return 0


def check_make_target(command: Command) -> int:
    """Checks that the Makefile has the target."""
    return subprocess.run([*command, "--dry-run"], cwd=ROOT, stdout=subprocess.DEVNULL).returncode


def check_packages(command: Command) -> int:
    """Checks that the project has the packages: a file of requirements, or extras with their pinned versions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {package for extra in project["optional-dependencies"].values() for package in extra}
    pins = re.findall(r"^[\w.-]+==\S+", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    for word in command[2:]:
        name, pinned, version = word.partition("==")
        known = name in extras and (not pinned or f"{name.partition('[')[0]}=={version}" in pins)
        assert known or word == "-r" or (ROOT / word).is_file(), word
    return 0


def check_report_labels(command: Command) -> int:
    """Checks the labels of a quoted report of `compile` from stdin: they fill the first 16 columns."""
    source = (ROOT / "symbert_jax" / "estimate" / "report.py").read_text()
    for line in sys.stdin:
        assert f'("{line[:16].strip()}", ' in source or f'"{line[:16].strip()}",\n' in source, line
    return 0


def skip(command: Command) -> int:
    """Checks nothing: the program is not installed, or the text only looks like a command."""
    return 0


# a regex of the fields that only the config of `finetune` has
FINETUNE_FIELDS = "|".join(vars(FinetuneConfig()).keys() - vars(Config()).keys())
COMPILE = "compile --config=configs/base_fast.py --topology=v5e:4x4"
# Checks by patterns of "DOCUMENT: COMMAND"; the first that matches counts. `flags` and `output` stand before text that
# is not a whole command, see tests/documents.py.
SYMBERT = r"(?:\.venv/bin/)?python -m symbert_jax"
RULES: dict[str, Callable[[Command], int]] = {
    # commands that take minutes, need the cloud, or run in almost the same form in another document
    rf".*: {SYMBERT} compile .*": parse,
    rf"make demo: {SYMBERT} .*": parse,
    rf"make bench: {SYMBERT} .*": parse,
    rf"README.md: {SYMBERT} (compare|finetune) .*runs/python_docs/.*": parse,
    rf"configs/glue.py: {SYMBERT} finetune .*": parse,
    rf"docs/interop.md: {SYMBERT} export --checkpoint=runs/glue/.*": parse,
    rf"docs/interop.md: {SYMBERT} export .* --(format|step)=.*": parse,
    rf"docs/interop.md: {SYMBERT} import --source=bert-base-uncased .*": parse,
    rf"(README.md: {SYMBERT} pretrain (?!--config=configs/mini.py)|configs/.*: {SYMBERT} pretrain ).*": run_doctor,
    rf"help .*: {SYMBERT} .*": parse,
    rf".*: {SYMBERT}( .*)?": run,
    r".*: symbert .*": run_installed,
    r".*: python - .*": run_python,
    # parts of commands
    r"docs/interop.md: import --attention=pairwise": partial(parse_flags, "import --source=x --workdir=x"),
    r"configs/base_fast.py: compile .*": partial(parse_flags, COMPILE),
    r"(README.md|docs/(performance|slices).md): flags --(find-batch|out)\b.*": partial(parse_flags, COMPILE),
    r"docs/interop.md: flags --format=plpi": partial(parse_flags, "export --checkpoint=x --out=x"),
    r"docs/interop.md: (flags|import) --\w+": parse_import_flag,
    rf".*: flags --config\.({FINETUNE_FIELDS})\b.*": partial(
        parse_flags, "finetune --config=configs/glue.py --workdir=x --config.checkpoint=x"
    ),
    r"docs/launch.md: flags --(help|dry-run)": check_launch_flags,
    r"bench/glue.py: flags .*": partial(parse_bench_flags, "bench.glue --source=x --vocab=x"),
    r"bench/growth.py: flags .*": partial(parse_bench_flags, "bench.growth"),
    r"bench/slices.py: flags .*": partial(parse_bench_flags, "bench.slices"),
    r"bench/tpu_estimate.py: flags .*": partial(parse_bench_flags, "bench.tpu_estimate"),
    r"README.md: flags --rounds .*": partial(parse_bench_flags, "bench.peers"),
    r"README.md: (flags --config\.section\.field=value|kill -9)": skip,
    r".*: flags --(config\.|xla_preset|coordinator|join_timeout|lost_after).*": partial(
        parse_flags, "pretrain --config=configs/base.py --workdir=x"
    ),
    # other programs
    r".*: ((\.venv/bin/)?python -m )?bench\..*": parse_bench,
    r"docs/launch.md: launch/.*": check_launch,
    r".*: pip install (xprof|xpk|\.)": skip,
    r".*: pip install .*": check_packages,
    r".*: make .*": check_make_target,
    r"README.md: output": check_report_labels,
    r"docs/launch.md: gcloud storage rsync data/corpus_512 gs://BUCKET/corpus_512 --recursive": skip,
    r"docs/.*: (git archive HEAD|xpk config .*|xprof --logdir .*|ulimit -s unlimited)": skip,
    r"configs/wiki_books.py: tfds build wikipedia/20230601.en": skip,
    r"CONTRIBUTING.md: \.venv/bin/pre-commit install": skip,
    r"docs/interop.md: hf download OWNER/NAME --local-dir DIR": skip,
    r"(README.md: \[CLS\] … \[SEP\]|docs/interop.md: (\[PAD\] .*|{do_lower_case: false}))": skip,
}


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
        print("no rule in tests/documented_commands.py matches this command", file=sys.stderr)
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
    for program in (".venv/bin/python", ".venv/bin/pre-commit", *(f"launch/{script}.sh" for script in SCRIPTS)):
        Path(program).parent.mkdir(parents=True, exist_ok=True)
        Path(program).write_text(PROGRAM)
        Path(program).chmod(0o755)
    server = Server()
    server.run("setup", SETUP)
    if not server.failed:
        shutil.copytree("runs/phase1", "runs/pairwise")
        Path("runs/phase1/checkpoints/4").rename("runs/phase1/checkpoints/90000")
        for name, script in scripts.items():
            server.run(name, script)
    json.dump({"failed": server.failed, "unused": server.unused}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
