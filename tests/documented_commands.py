"""Runs the scripts of documents: bash reads them, and a rule of `RULES` takes the place of every program.

`python -m tests.documented_commands FOLDER` reads scripts as JSON and prints what the failed ones said. FOLDER stands
for the user's: it is filled first, and all commands run there, in forks of this one process.
"""

import argparse
import importlib
import json
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
from unittest.mock import MagicMock

from absl import flags

from symbert_jax.config import Config, Finetune
from tests import stand_in
from tests.command_line import end
from tests.documents import ROOT

Words = list[str]

IMPORTED = (
    *("compare", "compile", "data.corpus", "doctor", "eval.finetune", "fill", "interop.export", "interop.import_"),
    *("train.loop",),
)
# Where a command that is only parsed would begin its work.
WORK = {
    "data.corpus": "prepare",
    "distributed": "join",
    "train.loop": "pretrain",
    "doctor": "examine",
    "interop.export": "export",
    "interop.import_": "import_",
    "compile": "report",
    "fill": "Filler",
    "compare": "compare",
}
PLACEHOLDERS = {"FILE": "configs/mini.py", "HOST": "localhost", "PORT": "8476", "I": "0", "N": "2", "NAME": "peers"}

SCRIPTS = ("tpu_vm", "gce", "gke", "xpk", "slurm", "local")
CLIENT = """
import json, os, socket, sys
server = socket.socket(fileno=int(os.environ["SERVER"]))
request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)])
socket.send_fds(server, [request.encode()], [0, 1, 2])
sys.exit(int(server.recv(16)))
"""
PROGRAM = '#!/bin/bash\n"$PYTHON" -IS client.py "$0" "$@"\n'
PRELUDE = r"""
PATH=/nowhere
command_not_found_handle() { "$PYTHON" -IS client.py "$@"; }
ulimit() { command_not_found_handle ulimit "$@"; }
says() { # compares its input with file 9; documents leave out where the working directory is
  local found wanted
  IFS= read -r -d '' found
  IFS= read -r -d '' -u 9 wanted
  found=${found//"$PWD/"/}
  [[ $found == "$wanted" ]] || { printf 'found:\n%s\nwanted:\n%s\n' "$found" "$wanted" >&2; return 1; }
}
trap 'echo "FAILED $PAGE:$LINENO: $BASH_COMMAND" >&2' ERR
"""
# What documents take for granted. `phase1` is the first phase, and `pairwise` a run of the paper's recipe.
GIVEN = """
for config in tiny wiki_books; do python -m symbert_jax prepare --config=configs/$config.py; done
python -m symbert_jax prepare --config=configs/base.py --config.data.sources='jsonl:wiki/*.jsonl.gz,bookcorpus:books'
python -m symbert_jax pretrain --config=configs/base.py --workdir=runs/phase1 --config.model.attention=pairwise
"""


def run(words: Words) -> int:
    """`python -m symbert_jax …`."""
    from symbert_jax.__main__ import main

    sys.argv = ["symbert_jax", *words[3:]]
    return main(sys.argv[1:])


def doctor(words: Words) -> int:
    """The doctor of a `pretrain` that would take long."""
    return run([*words[:3], "doctor", *words[4:]])


def parse(words: Words) -> int:
    """A command up to where its work begins, with the documented configs: flags, fields and their limits."""
    from symbert_jax.data.tasks import find
    from symbert_jax.eval.protocols import resolve

    os.chdir(ROOT)
    for module, name in WORK.items():
        setattr(importlib.import_module(f"symbert_jax.{module}"), name, MagicMock())
    finetune = importlib.import_module("symbert_jax.eval.finetune")
    finetune.finetune = lambda config, workdir: (resolve(config), find(config.tasks))
    return run([word for word in words if word != "…"])


def parse_flags(command: str, words: Words) -> int:
    """Flags that a document names without their command, or with nothing but its name."""
    return parse(["python", "-m", "symbert_jax", *command.split(), *words[1:]])


def parse_synopsis(words: Words) -> int:
    """A line of `--help`."""
    return parse(["python", "-m", *([] if words[0] == "synopsis" else ["symbert_jax"]), *words])


def run_python(words: Words) -> int:
    """A block of Python."""
    exec(compile(sys.stdin.read(), words[-1], "exec"), {"__name__": "__main__"})
    return 0


def parse_bench(words: Words) -> int:
    """A bench up to where it has read its flags."""
    start = next(i for i, word in enumerate(words) if word.startswith("bench."))
    sys.argv = words[start:]
    os.chdir(ROOT)
    flags.FLAGS.__dict__["__flags"].clear()  # those of symbert_jax
    for parser, method in ((argparse.ArgumentParser, "parse_args"), (flags.FlagValues, "__call__")):
        setattr(parser, method, _then_end(getattr(parser, method)))
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    return 1


def parse_bench_flags(command: str, words: Words) -> int:
    """Flags of a bench that a document names without it."""
    return parse_bench([*command.split(), *words[1:]])


def _then_end(read: Callable) -> Callable:
    def read_and_end(*given: object) -> None:
        read(*given)
        sys.exit(0)

    return read_and_end


def dry_run(words: Words) -> int:
    """A launch script: it knows the verb and has its knobs, and the command that it starts takes the flags."""
    script, *arguments = words
    end = arguments.index("--") if "--" in arguments else len(arguments)
    subprocess.run(
        [ROOT / script, *arguments[:end], "--dry-run", *arguments[end:]], check=True, stdout=subprocess.DEVNULL
    )
    command = f"pretrain --config={os.environ['CONFIG']} --workdir={os.environ['WORKDIR']}"
    return parse_flags(command, arguments[end:])


def parse_launch(words: Words) -> int:
    """Flags of every launch script."""
    for script in SCRIPTS:
        said = subprocess.check_output([ROOT / "launch" / f"{script}.sh", "--help"], text=True)
        assert words[1] in f"--help {said}", script
    return 0


def find_target(words: Words) -> int:
    """The Makefile has the target."""
    return subprocess.run([*words, "--dry-run"], cwd=ROOT, stdout=subprocess.DEVNULL).returncode


def find_packages(words: Words) -> int:
    """The project itself asks for these packages: by a file of requirements, or by an extra, and a pin if any."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {package for extra in project["optional-dependencies"].values() for package in extra}
    pins = re.findall(r"^[\w.-]+==\S+", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    for word in words[2:]:
        name, pinned, version = word.partition("==")
        known = name in extras and (not pinned or f"{name.partition('[')[0]}=={version}" in pins)
        assert known or word == "-r" or (ROOT / word).is_file(), word
    return 0


def find_labels(words: Words) -> int:
    """A report of `compile` as it is quoted: the labels of its lines."""
    source = (ROOT / "symbert_jax" / "compile.py").read_text()
    for line in sys.stdin:
        assert f'("{line[:16].strip()}", ' in source or f'"{line[:16].strip()}",\n' in source, line
    return 0


def accept(words: Words) -> int:
    """What no program of ours can judge."""
    return 0


OF_FINETUNE = "|".join(vars(Finetune()).keys() - vars(Config()).keys())
COMPILE = "compile --config=configs/base_fast.py --topology=v5e:4x4"
# How a command is checked: by the first rule that matches "DOCUMENT: COMMAND". Each must match some command.
OURS = r"(?:\.venv/bin/)?python -m symbert_jax"
RULES: dict[str, Callable[[Words], int]] = {
    # takes minutes, needs what is in the cloud, or is run elsewhere in much the same form
    rf".*: {OURS} compile .*": parse,
    rf"make demo: {OURS} .*": parse,
    rf"make bench: {OURS} .*": parse,
    rf"README.md: {OURS} (compare|finetune) .*runs/python_docs/.*": parse,
    rf"configs/glue.py: {OURS} finetune .*": parse,
    rf"docs/interop.md: {OURS} export --checkpoint=runs/glue/.*": parse,
    rf"docs/interop.md: {OURS} export .* --(format|step)=.*": parse,
    rf"docs/interop.md: {OURS} import --source=bert-base-uncased .*": parse,
    rf"(README.md: {OURS} pretrain (?!--config=configs/mini.py)|configs/.*: {OURS} pretrain ).*": doctor,
    rf"(?!symbert_jax).*: {OURS}( .*)?": run,
    r".*: python - .*": run_python,
    # parts of commands
    r"symbert_jax/__main__.py: (synopsis|fill) .*": parse_synopsis,
    r"docs/interop.md: import --attention=pairwise": partial(parse_flags, "import --source=x --workdir=x"),
    r"configs/base_fast.py: compile .*": partial(parse_flags, COMPILE),
    r"(README.md|docs/performance.md): flags --(find-batch|out)\b.*": partial(parse_flags, COMPILE),
    r"docs/interop.md: (flags|import) --\w+": lambda words: parse_flags("import --source=x --workdir=x", [*words, "x"]),
    rf".*: flags --config\.({OF_FINETUNE})\b.*": partial(
        parse_flags, "finetune --config=configs/glue.py --workdir=x --config.checkpoint=x"
    ),
    r"docs/launch.md: flags --(help|dry-run)": parse_launch,
    r"bench/glue.py: flags .*": partial(parse_bench_flags, "bench.glue --source=x --vocab=x"),
    r"bench/growth.py: flags .*": partial(parse_bench_flags, "bench.growth"),
    r"bench/slices.py: flags .*": partial(parse_bench_flags, "bench.slices"),
    r"bench/tpu_estimate.py: flags .*": partial(parse_bench_flags, "bench.tpu_estimate"),
    r"README.md: flags --rounds .*": partial(parse_bench_flags, "bench.peers"),
    r"(README.md: flags --config\.section\.field=value|symbert_jax/__main__.py: .* COMMAND \[FLAGS])": accept,
    r".*: flags --(config\.|xla_preset|coordinator|join_timeout|lost_after).*": partial(
        parse_flags, "pretrain --config=configs/base.py --workdir=x"
    ),
    # what is not a command of symbert_jax
    r".*: ((\.venv/bin/)?python -m )?bench\..*": parse_bench,
    r"docs/launch.md: launch/.*": dry_run,
    r".*: pip install (xprof|xpk)": accept,
    r".*: pip install .*": find_packages,
    r".*: make .*": find_target,
    r"README.md: output": find_labels,
    r"docs/launch.md: gcloud storage rsync data/corpus_512 gs://BUCKET/corpus_512 --recursive": accept,
    r"docs/.*: (git archive HEAD|xpk config .*|xprof --logdir .*|ulimit -s unlimited)": accept,
    r"configs/wiki_books.py: tfds build wikipedia/20230601.en": accept,
    r"CONTRIBUTING.md: \.venv/bin/pre-commit install": accept,
    r"docs/interop.md: hf download OWNER/NAME --local-dir DIR": accept,
    r"(README.md: \[CLS\] … \[SEP\]|docs/interop.md: (\[PAD\] .*|{do_lower_case: false}))": accept,
}


class Server:
    """Runs scripts in the current directory; counts rules and collects what failed."""

    def __init__(self) -> None:
        self.unused = list(RULES)
        self.failed: dict[str, str] = {}

    def run(self, name: str, script: str) -> None:
        """Runs the script of a document in bash, and each of its programs in a fork."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        variables = {"PYTHON": sys.executable, "BASH_ENV": "prelude.sh", "PAGE": name, "SERVER": str(theirs.fileno())}
        with (
            tempfile.TemporaryFile() as said,
            subprocess.Popen(
                ["/bin/bash", "-c", f"{script}\nexit 0"],
                **{"pass_fds": [theirs.fileno()], "env": os.environ | variables},
                **{"stdin": subprocess.DEVNULL, "stdout": said, "stderr": said},
            ) as shell,
        ):
            theirs.close()
            while (request := socket.recv_fds(ours, 1 << 20, 3))[0]:
                ours.send(str(self._answer(name, *json.loads(request[0]), request[1])).encode())
            said.seek(0)
            text = said.read().decode(errors="replace")
            if shell.wait() or "\nFAILED " in f"\n{text}":
                self.failed[name] = text

    def _answer(self, name: str, words: Words, cwd: str, variables: dict[str, str], files: list[int]) -> int:
        """The exit code of a program that a script calls."""
        command = f"{name}: {' '.join(words)}"
        rule = next((rule for rule in RULES if re.fullmatch(rule, command, re.DOTALL)), None)
        if rule in self.unused:
            self.unused.remove(rule)
        if not (child := os.fork()):
            for number, file in enumerate(files):
                os.dup2(file, number)
            os.environ |= variables | {"PATH": os.environ["PATH"], "BASH_ENV": ""}
            os.chdir(cwd)
            sys.path.insert(0, cwd)
            end(partial(_check, rule, words))
        for file in files:
            os.close(file)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _check(rule: str | None, words: Words) -> int:
    if rule is None:
        print("no rule in tests/documented_commands.py says how this is checked", file=sys.stderr)
        return 1
    return RULES[rule](
        [re.sub(r"\b[A-Z]+\b", lambda found: PLACEHOLDERS.get(found[0], found[0]), word) for word in words]
    )


def main(folder: Path) -> None:
    scripts = json.load(sys.stdin)
    os.chdir(folder)
    os.environ["TFDS_DATA_DIR"] = str(folder / "tfds")
    for name in (*(f"symbert_jax.{module}" for module in IMPORTED), *(f"configs.{name}" for name in stand_in.CONFIGS)):
        importlib.import_module(name)
    if not (child := os.fork()):  # ArrayRecord's threads do not survive a fork
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        end(partial(stand_in.write, folder))
    os.waitpid(child, 0)
    Path("client.py").write_text(CLIENT)
    Path("prelude.sh").write_text(PRELUDE)
    for program in (".venv/bin/python", ".venv/bin/pre-commit", *(f"launch/{script}.sh" for script in SCRIPTS)):
        Path(program).parent.mkdir(parents=True, exist_ok=True)
        Path(program).write_text(PROGRAM)
        Path(program).chmod(0o755)
    server = Server()
    server.run("given", GIVEN)
    if not server.failed:
        shutil.copytree("runs/phase1", "runs/pairwise")
        Path("runs/phase1/checkpoints/4").rename("runs/phase1/checkpoints/90000")
        for name, script in scripts.items():
            server.run(name, script)
    json.dump({"failed": server.failed, "unused": server.unused}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
