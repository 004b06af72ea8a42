"""The command line reports a mistake of the user in one line on stderr, with exit code 2 and without a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from symbert_jax.cli import help
from tests.command_line import Result, run_commands

ROOT = Path(__file__).parents[2]
TINY = "--config=configs/tiny.py"
RUN = ["pretrain", TINY, "--workdir=x"]
GLUE = ["finetune", "--config=configs/glue.py", "--workdir=x"]

# Wrong commands, and a part of the message that each prints.
MISTAKES = [
    (["pretrian"], "command: found 'pretrian', wanted a known one; did you mean 'pretrain'?"),
    (["--workdir=x"], "command: found '', wanted a known one; known are prepare, pretrain, doctor,"),
    (["pretrian", "--help"], "did you mean 'pretrain'?"),
    (["help", "pretrian"], "did you mean 'pretrain'?"),
    (["pretrain"], "found no --config, wanted --config=FILE; see python -m symbert_jax pretrain --help"),
    (["pretrain", "--config.seed=1"], "found no --config, wanted --config=FILE"),
    (["pretrain", TINY], "found no --workdir, wanted --workdir=DIR"),
    ([*RUN, "--topology=v5e:4x4"], "found --topology, wanted a flag of pretrain; it belongs to compile"),
    ([*RUN, "--find-batch"], "found --find-batch, wanted a flag of pretrain; it belongs to compile"),
    ([*RUN, "--config.tasks=rte"], "config.tasks: found no such field, wanted a known one; it belongs to finetune"),
    (
        ["export", TINY, "--out=x"],
        "found --config, wanted a flag of export; it belongs to prepare, pretrain, doctor, fin",
    ),
    (["export", "--config.seed=1", "--out=x"], "found --config.seed, wanted a flag of export; it belongs to prepare"),
    (["compile", TINY, "--processes=2", "--topology=v5e:2x2"], "it belongs to pretrain, doctor, finetune"),
    (["pretrain", TINY, "--workdir="], "workdir: found '', wanted a path"),
    (["export", "--checkpoint=", "--out=x"], "checkpoint: found '', wanted a path"),
    (["compile", TINY, "--topology=v5e:2x2", "--out=~nobody_here/x"], "out: found '~nobody_here/x'"),
    (["pretrain", "--confg=configs/tiny.py"], "did you mean 'config'?"),
    ([*RUN, "--process=1"], "found no --coordinator and no --processes, wanted all or none of --coordinator, --proc"),
    ([*RUN, "--coordinator=a:1", "--process=2", "--processes=2"], "--process: found 2, wanted at most 1"),
    ([*RUN, "--coordinator=a", "--process=0", "--processes=2"], "--coordinator: found 'a', wanted HOST:PORT of proc"),
    (["pretrain", "--config=configs/tini.py"], "configs/tini.py"),
    (["pretrain", "--config=configs/tini.py", "--config.seed=1"], "found no file configs/tini.py, wanted one of yours"),
    (
        ["pretrain", "--config=tini"],
        "config: found no file tini, wanted one of yours or of configs/; did you mean 'tiny'",
    ),
    (["finetune", TINY, "--workdir=x", "--config.tasks=rte"], "config: found configs/tiny.py: "),
    (["pretrain", "--flagfile=nowhere"], "flagfile: found "),
    (["pretrain", "--config=configs"], "config: found no file configs, wanted"),
    (["pretrain", TINY, "--config.model.atention=x"], "config.model.atention: found no such field, wanted a known"),
    (["pretrain", TINY, "--config.model.atention=x"], "did you mean 'model.attention'?"),
    (["pretrain", TINY, "--config.model.layers=two"], "config.model.layers=two"),
    ([*RUN, f"--config.seed={2**63}"], "seed: found 9.22e+18, wanted at most 4294967295"),
    ([*RUN, f"--config.train.steps={10**22}"], "train.steps: found 1e+22, wanted at most 2147483647"),
    (["prepare", TINY, "--config.model.attention=odd"], "model.attention: found 'odd'"),
    (["prepare", TINY, "--config.data.sources=a,b c"], "data.sources: found 'a', wanted a kind of source"),
    (["prepare", TINY, '--config.data.sources="a,b c"'], "data.sources: found 'a,b c', wanted a kind of source"),
    (["prepare", TINY, "--config.data.sources", "a/b, c"], "data.sources: found 'a/b', wanted a kind of source"),
    (["prepare", TINY, '--config.data.sources="a'], "wanted parts separated by commas, double quotes around one that"),
    (["prepare", TINY, "stray"], "found 'stray', wanted only flags"),
    ([*GLUE], "checkpoint: found none"),
    ([*GLUE, "--config.checkpoint=/no where/a,b/c"], "found no /no where/a/checkpoints"),
    ([*GLUE, "--config.checkpoint=y", "--config.mesh.model=0"], "mesh.model: found 0, wanted at least 1"),
    ([*GLUE, "--config.checkpoint=y", "--config.learning_rates=1e-4,fast"], "learning_rates: found 'fast', wanted a"),
    ([*GLUE, "--config.task=rte"], "did you mean 'tasks'?"),
    (["compile", TINY], "no --topology"),
    (["compile", TINY, "--topology=v5e"], "topology: found 'v5e', wanted a chip and"),
    (["compile", TINY, "--find-batch"], "no --topology"),
    (["compile", TINY, "--topology=v5e:2x2", "--out=configs"], "configs: Is a directory, wanted a file that can be"),
    (["compile", TINY, "--topolgy=v5e:2x2"], "did you mean 'topology'?"),
    (["fill", "--checkpoint=nowhere", "a [MASK]"], "nowhere"),
    (["fill", "--checkpoint=nowhere", "-a [MASK]"], "put -- before a text that begins with -"),
    (["fill", "--checkpoint=nowhere", "--", "-a [MASK]"], "nowhere"),
    (["fill", "--checkpoint=nowhere", "help [MASK]", "help"], "nowhere"),
    (["fill", "--checkpoint=nowhere", "--", "--help"], "nowhere"),
    (["fill", "--checkpoint=nowhere", "--top=0", "a [MASK]"], "--top=0"),
    (["fill", "--checkpoint=nowhere", "--step=-1", "a [MASK]"], "--step=-1"),
    (["import", "--source=README.md", "--workdir=x"], "README.md, a file, wanted the folder that holds it"),
    (["compare", "--out=there"], "no WORKDIR"),
]
# Config files that fail, by name: the source, and a part of the message.
CONFIG_FILES = {
    "variable": ("import os\nhere = os.environ['NOT_SET_HERE']\n", "variable.py, line 2: KeyError: NOT_SET_HERE"),
    "syntax": ("\ndef get_config(:", "syntax.py, line 2: SyntaxError"),
    "nothing": ("", "no attribute 'get_config'"),
    "number": ("def get_config():\n    return 3", "'int'"),
    "none": ("def get_config():\n    pass", "none.py: "),
    "exit": ("raise SystemExit(3)", "exit.py exits with 3"),
    "field": (
        "from symbert_jax import config\ndef get_config():\n    config.default().sed = 1",
        "field.py, line 3: Attr",
    ),
    "base": (
        "from symbert_jax import config\ndef get_config():\n    config.get_config('bas')",
        "base.py, line 3: UserError: config: found no file bas, wanted one of yours or of configs/; did you",
    ),
    "neighbour": ("import beside_it\ndef get_config():\n    return beside_it.wrong()", "line 3: ValueError: wrong"),
}
# Commands that print help, by the command whose help it is; empty: the overview of all commands.
HELP = {
    "": [[], ["--help"], ["-h"], ["help"], ["--workdir=x", "--help"]],
    "pretrain": [["pretrain", "--help"], ["--help", "pretrain"], ["help", "pretrain", TINY]],
    "fill": [["fill", "-h"], ["help", "fill"], ["fill", "--checkpoint=x", "a [MASK]", "--help"]],
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[list[str], str, Result]]:
    """Returns (command, message, result) for each case; the message is a part of the error, and empty for help."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / "beside_it.py").write_text("def wrong():\n    raise ValueError('wrong')")
    cases = [(command, "") for commands in HELP.values() for command in commands] + MISTAKES
    for name, (text, message) in CONFIG_FILES.items():
        (folder / f"{name}.py").write_text(text)
        command = ["prepare", f"--config={folder}/{name}.py"]
        cases += [(command, message), (["prepare", "--config", f"{folder}/{name}.py"], message)]
        cases += [([*command, "--config.seed=1"], message)]  # with the flag of a field, the file is read earlier
    imports = ["symbert_jax.compare", "symbert_jax.eval.finetune"]
    command_results = run_commands([command for command, _ in cases], imports=imports)
    return [(command, message, result) for (command, message), result in zip(cases, command_results, strict=True)]


def test_mistake_prints_one_line_and_ends_with_exit_code_2(results: list[tuple[list[str], str, Result]]) -> None:
    for command, message, result in results:
        if message:
            assert result.returncode == 2, (command, result)
            assert message in result.stderr, (command, result)
            assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, (command, result)
            assert not result.stdout, (command, result)


def test_help_is_printed_for_every_way_to_ask(results: list[tuple[list[str], str, Result]]) -> None:
    result_by_command = {tuple(command): result for command, message, result in results if not message}
    for name, commands in HELP.items():
        for command in commands:
            assert result_by_command[tuple(command)] == (0, help.describe(name) if name else help.overview(), ""), (
                command
            )


def test_help_imports_no_jax_and_commands_no_tensorflow_or_torch() -> None:
    program = """
import sys
from symbert_jax.__main__ import main
assert main(["--help"]) == main(["pretrain", "--help"]) == 0 and "jax" not in sys.modules
import symbert_jax.compare, symbert_jax.data.prepare.command, symbert_jax.estimate.report, symbert_jax.eval.finetune
import symbert_jax.interop.export, symbert_jax.interop.import_, symbert_jax.train.doctor, symbert_jax.train.loop
assert "jax" in sys.modules and not {"tensorflow", "torch"} & set(sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
