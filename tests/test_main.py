"""The command line: a user's mistake is one line on stderr and exit code 2, without a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def call(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "symbert_jax", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrian"], "command: found 'pretrian', wanted a known one; did you mean 'pretrain'?"),
        (["pretrain"], "no config"),
        (["pretrain", "--config=configs/tiny.py"], "no workdir"),
        (["pretrain", "--confg=configs/tiny.py"], "did you mean 'config'?"),
        (
            ["pretrain", "--config=configs/tiny.py", "--workdir=x", "--process=1"],
            "found no --coordinator and no --processes, wanted all or none of --coordinator, --process, --processes",
        ),
        (
            [
                "pretrain",
                "--config=configs/tiny.py",
                "--workdir=x",
                "--coordinator=a:1",
                "--process=2",
                "--processes=2",
            ],
            "--process: found 2, wanted at most 1",
        ),
        (
            [
                "pretrain",
                "--config=configs/tiny.py",
                "--workdir=x",
                "--coordinator=a",
                "--process=0",
                "--processes=2",
            ],
            "--coordinator: found 'a', wanted HOST:PORT of process 0",
        ),
        (["pretrain", "--config=configs/tini.py"], "configs/tini.py"),
        (["pretrain", "--config=configs/tini.py", "--config.seed=1"], "configs/tini.py"),
        (["pretrain", "--config=configs/tiny.py", "--config.model.atention=x"], 'Did you mean "attention"'),
        (["pretrain", "--config=configs/tiny.py", "--config.model.layers=two"], "config.model.layers=two"),
        (["prepare", "--config=configs/tiny.py", "--config.model.attention=odd"], "model.attention: found 'odd'"),
        (["prepare", "--config=configs/tiny.py", "stray"], "found 'stray', wanted only flags"),
        (["finetune", "--config=configs/glue.py", "--workdir=x"], "checkpoint: found none"),
        (
            [
                "finetune",
                "--config=configs/glue.py",
                "--workdir=x",
                "--config.checkpoint=y",
                "--config.mesh.model=0",
            ],
            "mesh.model: found 0, wanted at least 1",
        ),
        (["finetune", "--config=configs/glue.py", "--workdir=x", "--config.task=rte"], 'Did you mean "tasks"'),
        (["compile", "--config=configs/tiny.py"], "no topology"),
        (["compile", "--config=configs/tiny.py", "--topology=v5e"], "topology: found 'v5e', wanted a chip and"),
        (["compile", "--config=configs/tiny.py", "--find-batch"], "no topology"),
        (["compile", "--config=configs/tiny.py", "--topolgy=v5e:2x2"], "did you mean 'topology'?"),
        (["fill", "--checkpoint=nowhere", "a [MASK]"], "nowhere"),
        (["compare", "--out=there"], "no WORKDIR"),
        (["import", "--source=README.md", "--workdir=x"], "README.md, a file, wanted the folder that holds it"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    result = call(*arguments)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert not result.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["pretrain", "--help"], []])
def test_help_lists_the_commands(arguments: list[str]) -> None:
    result = call(*arguments)
    assert result.returncode == 0
    assert all(
        command in result.stdout for command in ("prepare", "pretrain", "finetune", "compile", "fill", "compare")
    )


@pytest.mark.parametrize(
    "module", ["train.loop", "data.corpus", "eval.finetune", "compile", "fill", "compare", "checkpoint"]
)
def test_nothing_imports_tensorflow_or_torch(module: str) -> None:
    program = f"import sys, symbert_jax.{module}; sys.exit('tensorflow' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60).returncode == 0


def test_a_machine_without_a_tpu_hears_nothing_of_libtpu() -> None:
    """Which is installed for `compile`, and which jax tries first where nothing names a platform."""
    program = (
        "from symbert_jax.__main__ import _quiet_and_cached as q; q(''); import jax; print(jax.devices()[0].platform)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_PLATFORMS", "TPU_"))}
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert result.stdout and not result.stderr


@pytest.mark.parametrize(
    ("workdir", "wanted"), [("gs://b/run/", "gs://b/run/xla"), ("runs/a", str(Path.home() / ".cache/symbert_jax/xla"))]
)
def test_compiled_programs_outlive_the_process_and_beside_a_bucket_the_machine(workdir: str, wanted: str) -> None:
    program = f"import os, symbert_jax.__main__ as m; m._quiet_and_cached('{workdir}'); "
    program += "print(os.environ['JAX_COMPILATION_CACHE_DIR'])"
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.stdout.strip() == wanted
