"""The compilers know the flags of the presets, and flags that the user sets take precedence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from symbert_jax.cli.xla_presets import PRESETS, apply
from symbert_jax.errors import UserError

ROOT = Path(__file__).parents[2]


def test_apply_puts_user_flags_last_and_shows_them() -> None:
    environment = {"LIBTPU_INIT_ARGS": "--xla_enable_async_all_gather=false  --other=1"}
    line = apply("v5e", environment)
    variable, flags = PRESETS["v5e"]
    assert environment[variable].split() == [*flags, "--xla_enable_async_all_gather=false", "--other=1"]
    assert line == f"XLA preset v5e: LIBTPU_INIT_ARGS='{environment[variable]}'"


@pytest.mark.parametrize("name", PRESETS)
def test_preset_sets_each_flag_once_in_one_variable(name: str) -> None:
    environment: dict[str, str] = {}
    apply(name, environment)
    (flags,) = (value.split() for value in environment.values())
    names = [flag.partition("=")[0] for flag in flags]
    assert names and len(set(names)) == len(names) and all(name.startswith("--xla_") for name in names)


def test_apply_refuses_unknown_names() -> None:
    with pytest.raises(UserError, match="xla_preset: found 'v5', wanted a known one; did you mean 'v5"):
        apply("v5", {})


def test_command_prints_preset_and_xla_knows_its_flags() -> None:
    """The compiler for CPUs reads flags for GPUs too, and aborts on one that it does not know."""
    command = [sys.executable, "-m", "symbert_jax", "--xla_preset=h100", "doctor", "--config=configs/tiny.py"]
    environment = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    result = subprocess.run(
        [*command, "--workdir=nowhere", "--config.data.dir=nowhere"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.stdout.startswith("XLA preset h100: XLA_FLAGS='--xla_gpu_enable_latency_hiding_scheduler=true ")
    assert result.stdout.endswith(" --xla_backend_optimization_level=0'\n")
    assert result.returncode == 2 and result.stderr.startswith("error: data.dir: found no finished corpus")


def test_tpu_compiler_knows_the_flags() -> None:
    """The compiler for TPUs, too, aborts on a flag that it does not know. One start reads the flags of all presets."""
    environment = os.environ | {"TPU_SKIP_MDS_QUERY": "1"}
    for name, (variable, _) in PRESETS.items():
        if variable == "LIBTPU_INIT_ARGS":
            apply(name, environment)
    program = "from symbert_jax.estimate.slices import find_slice; find_slice('v5e:2x2')"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
