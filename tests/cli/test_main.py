"""The command line: a user's mistake is one line on stderr and exit code 2, without a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import Result, run_commands

ROOT = Path(__file__).parents[2]
TINY = "--config=configs/tiny.py"
RUN = ["pretrain", TINY, "--workdir=x"]
GLUE = ["finetune", "--config=configs/glue.py", "--workdir=x"]

MISTAKES = [
    (["pretrian"], "command: found 'pretrian', wanted a known one; did you mean 'pretrain'?"),
    (["pretrain"], "no config"),
    (["pretrain", TINY], "no workdir"),
    (["pretrain", TINY, "--workdir="], "workdir: found '', wanted a path"),
    (["export", "--checkpoint=", "--out=x"], "checkpoint: found '', wanted a path"),
    (["compile", TINY, "--topology=v5e:2x2", "--out=~nobody_here/x"], "out: found '~nobody_here/x'"),
    (["pretrain", "--confg=configs/tiny.py"], "did you mean 'config'?"),
    ([*RUN, "--process=1"], "found no --coordinator and no --processes, wanted all or none of --coordinator, --proc"),
    ([*RUN, "--coordinator=a:1", "--process=2", "--processes=2"], "--process: found 2, wanted at most 1"),
    ([*RUN, "--coordinator=a", "--process=0", "--processes=2"], "--coordinator: found 'a', wanted HOST:PORT of proc"),
    (["pretrain", "--config=configs/tini.py"], "configs/tini.py"),
    (["pretrain", "--config=configs/tini.py", "--config.seed=1"], "configs/tini.py"),
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
    (["prepare", TINY, '--config.data.sources="a'], "wanted parts divided by commas, double quotes around one that"),
    (["prepare", TINY, "stray"], "found 'stray', wanted only flags"),
    ([*GLUE], "checkpoint: found none"),
    ([*GLUE, "--config.checkpoint=/no where/a,b/c"], "found no /no where/a/checkpoints"),
    ([*GLUE, "--config.checkpoint=y", "--config.mesh.model=0"], "mesh.model: found 0, wanted at least 1"),
    ([*GLUE, "--config.checkpoint=y", "--config.learning_rates=1e-4,fast"], "learning_rates: found 'fast', wanted a"),
    ([*GLUE, "--config.task=rte"], "did you mean 'tasks'?"),
    (["compile", TINY], "no topology"),
    (["compile", TINY, "--topology=v5e"], "topology: found 'v5e', wanted a chip and"),
    (["compile", TINY, "--find-batch"], "no topology"),
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
CONFIG_FILES = {
    "variable": ("import os\nhere = os.environ['NOT_SET_HERE']\n", "variable.py, line 2: KeyError: NOT_SET_HERE"),
    "syntax": ("\ndef get_config(:", "syntax.py, line 2: SyntaxError"),
    "nothing": ("", "no attribute 'get_config'"),
    "number": ("def get_config():\n    return 3", "'int'"),
    "field": (
        "from symbert_jax import config\ndef get_config():\n    config.default().sed = 1",
        "field.py, line 3: Attr",
    ),
    "neighbour": ("import beside_it\ndef get_config():\n    return beside_it.wrong()", "line 3: ValueError: wrong"),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str, Result]]:
    """What each mistake should say, under which name, and what came of it."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / "beside_it.py").write_text("def wrong():\n    raise ValueError('wrong')")
    cases = list(MISTAKES)
    for name, (text, message) in CONFIG_FILES.items():
        (folder / f"{name}.py").write_text(text)
        command = ["prepare", f"--config={folder}/{name}.py"]
        cases += [(command, message), (["prepare", "--config", f"{folder}/{name}.py"], message)]
        cases += [([*command, "--config.seed=1"], message)]  # an override reads the file earlier
    imports = ["symbert_jax.compare", "symbert_jax.eval.finetune"]
    found = run_commands([arguments for arguments, _ in cases], imports=imports)
    return [(" ".join(arguments), message, result) for (arguments, message), result in zip(cases, found, strict=True)]


def test_a_mistake_is_one_line_and_exit_code_2(results: list[tuple[str, str, Result]]) -> None:
    for command, message, result in results:
        assert result.returncode == 2, (command, result)
        assert message in result.stderr, (command, result)
        assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, (command, result)
        assert not result.stdout, (command, result)


def test_help_lists_the_commands() -> None:
    for result in run_commands([["--help"], ["pretrain", "--help"], []]):
        assert result.returncode == 0
        assert all(
            command in result.stdout for command in ("prepare", "pretrain", "finetune", "compile", "fill", "compare")
        )


@pytest.mark.parametrize(
    "module", ["train.loop", "data.prepare", "eval.finetune", "compile", "fill", "compare", "checkpoint"]
)
def test_nothing_imports_tensorflow_or_torch(module: str) -> None:
    program = f"import sys, symbert_jax.{module}; sys.exit('tensorflow' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60).returncode == 0
