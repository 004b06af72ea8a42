"""The wheel contains all modules and configs, and works in an environment of its own and in an empty folder."""

import json
import os
import random
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from symbert_jax import __version__
from symbert_jax.cli import help

ROOT = Path(__file__).parents[2]
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
# Runs commands of the console script in one process, which imports JAX once.
RUN = """
import json, runpy, sys
script, commands = sys.argv[1], json.loads(sys.argv[2])
for command in commands:
    sys.argv = ["symbert", *command]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as stop:
        assert stop.code == 0, command
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Builds the wheel, and returns its path."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("symbert_jax", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    run([sys.executable, "-c", BUILD, out], source, os.environ)
    (found,) = out.glob("*.whl")
    return found


def run(command: list, cwd: Path, environment: os._Environ | dict[str, str]) -> str:
    """Runs a program that must succeed; returns its stdout."""
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_wheel_holds_all_modules_and_configs(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "symbert_jax").rglob("*.py")}
    configs = {f"symbert_jax/configs/{path.name}" for path in (ROOT / "configs").glob("*.py")}
    assert {name for name in names if not name.startswith(f"symbert_jax-{__version__}.dist-info/")} == {
        *modules,
        *configs,
        "symbert_jax/py.typed",
    }


def test_installed_wheel_prepares_pretrains_and_fills(wheel: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run([sys.executable, "-m", "venv", "--without-pip", "env"], tmp_path, environment)
    python, symbert = tmp_path / "env/bin/python", tmp_path / "env/bin/symbert"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    run(pip, tmp_path, environment)
    (packages,) = (tmp_path / "env").glob("lib/python*/site-packages")
    # makes the packages of this environment, on which the wheel depends, importable in the new one
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))

    folder = tmp_path / "empty"
    folder.mkdir()
    assert run([symbert, "help", "pretrain"], folder, environment) == help.describe("pretrain")
    words = ["".join(random.Random(i).choices("abcdefgh", k=4)) for i in range(99)]
    documents = [" ".join(random.Random(i).choices(words, k=60)) for i in range(80)]
    (folder / "text.jsonl").write_text("\n".join(json.dumps({"text": document}) for document in documents))
    fields = ["--config.data.sources=jsonl:text.jsonl", "--config.data.validation_fraction=0.2"]
    steps = [f"--config.{field}" for field in ("train.steps=4", "train.validate_every=4", "train.checkpoint_every=4")]
    commands = [
        ["prepare", "--config=tiny", *fields],
        ["pretrain", "--config=configs/tiny.py", "--workdir=run", *fields, *steps, "--config.optim.warmup_steps=1"],
        ["fill", "--checkpoint=run", "--top=3", "a [MASK]"],
    ]
    output = run([python, "-c", RUN, symbert, json.dumps(commands)], folder, environment | {"JAX_PLATFORMS": "cpu"})
    *_, text, predictions = output.splitlines()
    assert text == "a [MASK]" and predictions.count("%") == 3
