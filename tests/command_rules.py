"""How each command of the documents is checked: `RULES` maps patterns of commands to checks.

A new command in a document needs no work if an existing rule fits, in most cases that of `run`. Otherwise add a rule,
above all others that match. A rule that matches no command is reported as unused. `tests/documented_commands.py` calls
the checks, each in a fork of a process that has imported JAX; the exit code of a check is that of the command.
"""

import argparse
import importlib
import os
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from unittest import mock

from absl import flags

from symbert_jax.config import Config, FinetuneConfig
from tests.documents import ROOT

Command = list[str]  # a program and its arguments

# The function with which each command begins its work, by module. `parse` replaces them by mocks.
ENTRY_POINTS = {
    "data.prepare.command": "prepare",
    "distributed": "join",
    "train.loop": "pretrain",
    "train.doctor": "check",
    "train.average": "average",
    "interop.export": "export",
    "interop.import_": "import_",
    "estimate.report": "report",
    "inference": "fill",
    "compare": "compare",
    "study.command": "study",
}
# the scripts in launch/
SCRIPTS = ("tpu_vm", "gce", "gke", "xpk", "slurm", "dataflow", "local")


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


def parse_beam(command: Command) -> int:
    """Parses a command with options of Apache Beam."""
    from symbert_jax.data.prepare.beam_options import parse_options

    (options,) = (word.removeprefix("--beam=") for word in command if word.startswith("--beam="))
    parse_options(options)
    return parse(command)


def run_python(command: Command) -> int:
    """Runs a block of Python from stdin."""
    exec(compile(sys.stdin.read(), command[-1], "exec"), {"__name__": "__main__"})
    return 0


def compile_python(command: Command) -> int:
    """Compiles a block of Python from stdin, which needs files that the tests do not make."""
    compile(sys.stdin.read(), command[-1], "exec")
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
    """Checks that a launch script accepts its arguments, and that the command accepts the flags after `--`."""
    script, *arguments = command
    end = arguments.index("--") if "--" in arguments else len(arguments)
    subprocess.run(
        [ROOT / script, *arguments[:end], "--dry-run", *arguments[end:]], check=True, stdout=subprocess.DEVNULL
    )
    if script == "launch/dataflow.sh":
        return parse_flags(f"prepare --config={os.environ['CONFIG']}", arguments[end:])
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
    """Checks that a file of requirements exists, and that a package is in the extras and has its pinned version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {re.split("[<>=]", package)[0] for extra in project["optional-dependencies"].values() for package in extra}
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
SYMBERT = r"(?:\.venv/bin/)?python -m symbert_jax"
# Checks by patterns of "DOCUMENT: COMMAND"; the first that matches counts. `flags` and `output` stand before text that
# is not a whole command, see tests/documents.py.
RULES: dict[str, Callable[[Command], int]] = {
    # commands that take minutes, need the cloud, or run in almost the same form in another document
    rf"docs/own_text.md: {SYMBERT} .*(data|runs)/german.*": parse,
    r"docs/own_text.md: (apt-get|dpkg|mkdir|find) .*": skip,
    r"docs/own_text.md: output": skip,  # of a run that takes minutes
    rf".*: {SYMBERT} compile .*": parse,
    rf".*: {SYMBERT} (prepare|pretrain) .*--config\.(train\.phases|data\.batch_warmup)=.*": parse,
    rf".*: {SYMBERT} prepare .*--beam=.*": parse_beam,
    rf"make demo(-bert)?: {SYMBERT} .*": parse,
    r"make demo: (make|sed) .*": skip,  # the commands of this `make` are in the same script
    rf"make bench: {SYMBERT} .*": parse,
    rf"docs/first_run.md: {SYMBERT} (pretrain|fill|compare .*runs/python_docs/).*": parse,
    rf"configs/glue.py: {SYMBERT} finetune .*": parse,
    rf"(configs/study_.*|docs/modern.md): {SYMBERT} study .*": parse,
    rf"docs/glue.md: {SYMBERT} finetune .*runs/encoder/.*": parse,
    rf"(configs/minilm.py|docs/continue_from_bert.md): {SYMBERT} pretrain --config=configs/minilm.py .*": parse,
    rf"docs/continue_from_bert.md: {SYMBERT} fill --checkpoint=runs/minilm/.*": parse,
    rf"docs/weights.md: {SYMBERT} export --checkpoint=runs/glue/.*": parse,
    rf"docs/weights.md: {SYMBERT} export .* --(format|step)=.*": parse,
    rf"docs/.*: {SYMBERT} import --source=(bert-base-uncased|encoder/.*) .*": parse,
    rf"docs/.*: {SYMBERT} pretrain --config=configs/tiny.py .*": parse,
    rf"(docs/.*: {SYMBERT} pretrain (?!--config=configs/mini.py)|configs/.*: {SYMBERT} pretrain ).*": run_doctor,
    rf"help .*: {SYMBERT} .*": parse,
    r".*: (python -m symbert_jax|symbert) COMMAND": skip,
    rf".*: {SYMBERT}( .*)?": run,
    r".*: symbert .*": run_installed,
    r"docs/glue.md: python - .*": compile_python,
    r".*: python - .*": run_python,
    # parts of commands
    r"docs/weights.md: import --attention=pairwise": partial(parse_flags, "import --source=x --workdir=x"),
    r"(configs/base_fast.py|docs/faq.md): compile .*": partial(parse_flags, COMPILE),
    r"docs/(cost|performance).md: flags --(find_batch|out)\b.*": partial(parse_flags, COMPILE),
    r"docs/weights.md: flags --format=plpi": partial(parse_flags, "export --checkpoint=x --out=x"),
    r"docs/weights.md: (flags|import) --\w+": parse_import_flag,
    r"docs/recipes.md: flags --weights=raw": partial(parse_flags, "export --checkpoint=x --out=x"),
    rf".*: flags --config\.({FINETUNE_FIELDS})\b.*": partial(
        parse_flags, "finetune --config=configs/glue.py --workdir=x --config.checkpoint=x"
    ),
    r"docs/(pods|corpora).md: flags --(help|dry-run)": check_launch_flags,
    r"docs/corpora.md: flags --(beam|direct_running_mode=.*)": skip,
    r"bench/gpu_check.py: flags .*": partial(parse_bench_flags, "bench.gpu_check --glue=x --vocab=x --out=x"),
    r"bench/gpu_kernels.py: flags .*": partial(parse_bench_flags, "bench.gpu_kernels"),
    r"bench/glue.py: flags .*": partial(parse_bench_flags, "bench.glue --source=x --vocab=x"),
    r"bench/growth.py: flags .*": partial(parse_bench_flags, "bench.growth"),
    r"bench/prepare_rate.py: flags .*": partial(parse_bench_flags, "bench.prepare_rate"),
    r"bench/slices.py: flags .*": partial(parse_bench_flags, "bench.slices"),
    r"bench/tpu_estimate.py: flags .*": partial(parse_bench_flags, "bench.tpu_estimate"),
    r".*: flags --reference=.*": partial(parse_flags, "compare --out=x x"),
    r"docs/performance.md: flags --contenders .*": partial(parse_bench_flags, "bench.peers"),
    r"docs/.*: flags --(config\.section\.field|name)[= ]value": skip,
    r"(README|docs/configuration).md: flags --config=.*": partial(parse_flags, "prepare"),
    r".*: flags --(config\.|xla_preset|coordinator|join_timeout|lost_after).*": partial(
        parse_flags, "pretrain --config=configs/base.py --workdir=x"
    ),
    # other programs
    r".*: ((\.venv/bin/)?python -m )?bench\..*": parse_bench,
    r"docs/(pods|corpora).md: launch/.*": check_launch,
    r"docs/corpora.md: (docker run|python -m apache_beam\.).*": skip,
    r"docs/performance.md: bench/gpu_check.sh .*": skip,  # needs a GPU
    r".*: pip install (xprof|xpk|\.|.* --target=encoder .*)": skip,
    r"docs/first_run.md: ls .*": skip,
    r".*: pip install .*": check_packages,
    r".*: make .*": check_make_target,
    r"docs/cost.md: output": check_report_labels,
    r"docs/continue_from_bert.md: output": skip,  # of commands that need a published encoder
    r"docs/pods.md: gcloud storage rsync data/corpus_512 gs://BUCKET/corpus_512 --recursive": skip,
    r"docs/.*: (git archive HEAD|xpk config .*|xprof --logdir .*|ulimit -s unlimited)": skip,
    r"configs/wiki_books.py: tfds build wikipedia/20230601.en": skip,
    r"CONTRIBUTING.md: \.venv/bin/pre-commit install": skip,
    r"docs/.*: hf download OWNER/NAME --local-dir DIR": skip,
    r"docs/weights.md: (\[PAD\] .*|{do_lower_case: false})": skip,
}
