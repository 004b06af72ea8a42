"""Crashes, stops and user errors of the program that `restart.sh` runs."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from tests.launch.conftest import ROOT, Project, launch


@pytest.mark.parametrize(
    ("answers", "restarts", "calls", "status"),
    [(["1", "139", "0"], "10", 3, 0), (["1"], "2", 3, 1), (["1", "2"], "10", 2, 2), (["1"], "0", 1, 1)],
)
def test_run_restarts_after_crashes_and_not_after_user_errors(
    answers: list[str], restarts: str, calls: int, status: int, project: Project
) -> None:
    """answers: the exit codes of the program, start by start; further starts get the last one. calls: the starts."""
    project.answer("python*", *answers)
    assert launch(project, "local", "run", RESTARTS=restarts).returncode == status
    assert sum(call[0] == "python" for call in project.calls()) == calls


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_run_saves_and_exits_with_143(number: signal.Signals) -> None:
    run = "trap 'echo saved; exit 0' TERM; echo started; while :; do sleep 0.02; done"
    command = [ROOT / "launch" / "restart.sh", "bash", "-c", run]
    # a test suite in the background may ignore Ctrl-C, and bash cannot trap a signal that is ignored when it starts
    options = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), "start_new_session": True}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "started\n"
            process.send_signal(number)
            assert process.communicate(timeout=30)[0] == "saved\n"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 143


def test_signal_while_waiting_for_restart_ends_without_restart() -> None:
    command = [ROOT / "launch" / "restart.sh", "bash", "-c", "echo started; exit 1"]
    env = os.environ | {"RESTART_AFTER": "60"}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "exit code 1, starting again" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=30)[0] == "started\n"
    assert process.returncode == 1


def test_user_error_of_the_real_program_is_not_repeated(project: Project) -> None:
    """The config has no field of the name in FLAG."""
    python = project.root / ".venv" / "bin" / "python"
    python.unlink()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    result = launch(project, "local", "run", CONFIG=str(ROOT / "configs" / "tiny.py"), PYTHONPATH=str(ROOT))
    assert result.returncode == 2 and not project.calls()
    assert result.stderr.startswith("error: config.wandb: found no such field") and result.stderr.count("\n") == 1
