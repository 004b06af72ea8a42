"""The process of a command: limits of the shell, output streams that fail, the environment of JAX, and exit codes."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from symbert_jax.cli import process
from symbert_jax.errors import UserError, UserErrors

ROOT = Path(__file__).parents[2]


def test_command_checks_limits_and_survives_lost_streams() -> None:
    """Low limits of open files and address space are errors; a closed, full or abandoned output stream is not."""
    command = f"exec {sys.executable} -m symbert_jax"
    cases = {  # exit code and a part of the message, by script
        f"ulimit -n 32; {command} compare --out=x y": (2, "error: ulimit -n: found 32 open files, wanted at least 256"),
        f"ulimit -v 1500000; {command} compare --out=x y": (2, "error: ulimit -v: found 1.4 GiB of address space"),
        f"ulimit -Sn 64; {command} compare --out=x y": (2, "no validation loss"),
        f"{command} --help >/dev/full": (0, ""),
        f"{command} --help >&-": (0, ""),
        f"{command} compare --out=x 2>&-": (2, ""),
        f"({command.removeprefix('exec ')} --help; echo code $? >&2) | true": (0, "code 0"),
    }
    for script, (code, message) in cases.items():
        result = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert (result.returncode, result.stderr.count("\n")) == (code, bool(message)), (script, result)
        assert message in result.stderr


def test_commands_that_train_restart_once_with_huge_pages() -> None:
    """A variable that the user sets stays as it is, and other commands do not restart."""
    command = f"exec {sys.executable} -m symbert_jax"
    program = "import os, sys; os.execv = lambda path, argv: print(os.environ['GLIBC_TUNABLES'], *argv[1:]); "
    program += "from symbert_jax.cli.process import restart_with_huge_pages as restart; "
    program += "[restart(argv) for argv in (['fill'], ['--xla_preset=v4', 'pretrain'])]"
    for given, wanted in (({}, f"{process.HUGE_PAGES} -c {program}\n"), ({"GLIBC_TUNABLES": "x"}, "")):
        environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"} | given
        result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        assert result.stdout == wanted, result
    del environment["GLIBC_TUNABLES"]
    script = f"{command} finetune --no-such-flag"
    result = subprocess.run(["bash", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 2 and "no-such-flag" in result.stderr


def test_configure_libraries_keeps_libtpu_quiet_without_a_tpu() -> None:
    """libtpu is installed for `compile`. JAX tries libtpu first if no environment variable names a platform."""
    program = "from symbert_jax.cli.process import configure_libraries; configure_libraries(workdir=''); "
    program += "import jax; print(jax.devices()[0].platform)"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_PLATFORMS", "TPU_"))}
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert result.stdout and not result.stderr


def test_configure_libraries_caches_programs_at_home_or_in_bucket() -> None:
    program = """
import os, symbert_jax.cli.process as p
for workdir in ("gs://b/run/", "runs/a"):
    p.configure_libraries(workdir)
    print(os.environ.pop("JAX_COMPILATION_CACHE_DIR"))
"""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.stdout.splitlines() == ["gs://b/run/xla", str(Path.home() / ".cache/symbert_jax/xla")]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("field", "1", "2"), 2, "error: field: found 1, wanted 2\n"),
        (
            UserErrors([UserError("a", "1", "2"), UserError("b", "1", "2")]),
            2,
            "error: a: found 1, wanted 2\nerror: b: ",
        ),
        (OSError(errno.ENOSPC, "No space left"), 2, "error: file: found No space left, wanted one that can be used\n"),
        (OSError(errno.EACCES, "Permission denied", "/x"), 2, "error: file: found /x: Permission denied, wanted "),
        (MemoryError(), 2, "error: memory: found not enough, wanted a program that fits; lower data.batch_size"),
        (RuntimeError("RESOURCE_EXHAUSTED: 9 GiB"), 2, "error: memory: found RESOURCE_EXHAUSTED: 9 GiB, wanted "),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
    ],
)
def test_run_command_prints_what_the_user_can_correct(error: BaseException, code: int, message: str, capsys) -> None:
    def command() -> None:
        raise error

    assert process.run_command(command) == code
    assert capsys.readouterr().err.startswith(message)


@pytest.mark.parametrize("error", [OSError(errno.EBADF, "Bad file descriptor"), RuntimeError("a fault"), ValueError()])
def test_run_command_raises_faults_of_the_program(error: Exception) -> None:
    def command() -> None:
        raise error

    with pytest.raises(type(error)):
        process.run_command(command)
