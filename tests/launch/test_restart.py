"""Crashes, stops and mistakes of the program that `restart.sh` runs."""

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
def test_a_crash_is_followed_by_a_restart_a_mistake_is_not(
    answers: list[str], restarts: str, calls: int, status: int, project: Project
) -> None:
    project.answer("python*", *answers)
    assert launch(project, "local", "run", RESTARTS=restarts).returncode == status
    assert sum(call[0] == "python" for call in project.calls()) == calls


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_saves_and_says_that_it_has_not_finished(number: signal.Signals) -> None:
    run = "trap 'echo saved; exit 0' TERM; echo begun; while :; do sleep 0.02; done"
    command = [ROOT / "launch" / "restart.sh", "bash", "-c", run]
    # what starts the tests in the background may have them ignore Ctrl-C, and bash cannot trap what it inherits so
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), "start_new_session": True}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **heard) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            process.send_signal(number)
            assert process.communicate(timeout=30)[0] == "saved\n"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 143


def test_a_stop_between_two_starts_is_the_end() -> None:
    command = [ROOT / "launch" / "restart.sh", "bash", "-c", "echo begun; exit 1"]
    env = os.environ | {"RESTART_AFTER": "60"}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "exit code 1, starting again" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=30)[0] == "begun\n"
    assert process.returncode == 1


def test_the_program_itself_refuses_a_mistake_once(project: Project) -> None:
    python = project.root / ".venv" / "bin" / "python"
    python.unlink()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    result = launch(project, "local", "run", CONFIG=str(ROOT / "configs" / "tiny.py"), PYTHONPATH=str(ROOT))
    assert result.returncode == 2 and not project.calls()
    assert result.stderr.startswith("error: config.wandb: found no such field") and result.stderr.count("\n") == 1
