"""A run of several processes computes what one process does, resumes with other processes, and stops as one."""

import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.processes import STEPS, own_lines, pretrain, read_until, run_processes, wait, wait_all_ok
from tests.train.test_loop import read_metrics


def losses(workdir: Path) -> dict[tuple[int, str], float]:
    """Returns every loss of metrics.jsonl by step and name; no step may occur twice."""
    lines = read_metrics(workdir)
    found = [(line["step"], name, line[name]) for line in lines for name in line if name.endswith("/loss")]
    assert len({key[:2] for key in found}) == len(found)
    return {(step, name): value for step, name, value in found}


def check_same_curve(workdir: Path, whole: Path, last: int = STEPS) -> None:
    """Checks that a run has the losses of another, `whole`, up to the step `last`."""
    wanted = {key: value for key, value in losses(whole).items() if key[0] <= last}
    assert losses(workdir) == pytest.approx(wanted, abs=1e-3) and len(wanted) >= last


@pytest.fixture(scope="module")
def cache(corpus: Path) -> dict[str, str]:
    return {"JAX_COMPILATION_CACHE_DIR": str(corpus / "xla")}


@pytest.fixture(scope="module")
def whole(corpus: Path, cache: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of an uninterrupted run of one process with 8 devices."""
    workdir = tmp_path_factory.mktemp("whole")
    with run_processes(count=1, devices=8, command=pretrain(workdir, corpus), **cache) as processes:
        wait_all_ok(processes)
    return workdir


@pytest.fixture(scope="module")
def stopped(corpus: Path, cache: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The workdir and the outputs of 4 processes with 2 devices each, of which one got a SIGHUP and a SIGTERM."""
    workdir = tmp_path_factory.mktemp("stopped")
    command = pretrain(workdir, corpus, "--config.mesh.fsdp=True")
    with run_processes(count=4, devices=2, command=command, **cache) as processes:
        output = read_until(processes[0], f"step 5/{STEPS}")
        # JAX's notice of a signal takes a second to reach all processes. Process 3 is paused, so that the run does not
        # end before.
        processes[3].send_signal(signal.SIGSTOP)
        processes[2].send_signal(signal.SIGHUP)
        time.sleep(2)
        processes[2].send_signal(signal.SIGTERM)
        # Read before process 3 continues, because Gloo then writes lines, which may break others.
        stopped_output = read_until(processes[2], "third signal")
        processes[3].send_signal(signal.SIGCONT)
        outputs = wait_all_ok(processes)
    return workdir, [output + outputs[0], outputs[1], stopped_output + outputs[2], outputs[3]]


def saved_step(workdir: Path) -> int:
    (step,) = [int(path.name) for path in (workdir / "checkpoints").iterdir()]
    return step


def test_signal_to_one_process_saves_one_step_of_all(stopped: tuple[Path, list[str]], whole: Path) -> None:
    workdir, outputs = stopped
    step = saved_step(workdir)
    assert 5 <= step < STEPS
    assert f"SIGTERM: saved step {step}; the same command resumes from it" in outputs[0]
    assert own_lines(outputs[2]) == ["SIGTERM: the run is saving already; a third signal ends it at once"]
    assert read_metrics(workdir)[-1]["step"] == step, "no work is lost"
    check_same_curve(workdir, whole, step)


def test_main_process_alone_prints_and_writes(stopped: tuple[Path, list[str]]) -> None:
    workdir, (main, *others) = stopped
    assert re.search(r"compiling the training step .* …\nstep 1/", main)
    assert not [output for output in others if "step" in output or "BERT" in output or "compiling" in output]
    assert len(list((workdir / "tensorboard").iterdir())) == 1
    assert sorted(path.name for path in workdir.iterdir()) == [
        "checkpoints",
        "config.json",
        "metrics.jsonl",
        "tensorboard",
        "vocab.txt",
    ]


@pytest.mark.parametrize(("devices", "flags"), [(8, ["--config.mesh.model=2"]), (1, [])])
def test_run_of_4_processes_resumes_in_one(
    devices: int, flags: list[str], stopped, whole: Path, corpus: Path, cache: dict[str, str], tmp_path: Path
) -> None:
    workdir = Path(shutil.copytree(stopped[0], tmp_path / "run"))
    with run_processes(count=1, devices=devices, command=pretrain(workdir, corpus, *flags), **cache) as processes:
        (output,) = wait_all_ok(processes)
    assert f"on {devices} cpu" in output and f"from step {saved_step(stopped[0])}" in output
    check_same_curve(workdir, whole)


def test_run_resumes_in_2_processes_of_which_one_is_killed(
    stopped, whole: Path, corpus: Path, cache: dict[str, str], tmp_path: Path
) -> None:
    """The model axis spans both processes, so that both hold the same rows."""
    workdir, step = Path(shutil.copytree(stopped[0], tmp_path / "run")), saved_step(stopped[0])
    command = pretrain(workdir, corpus, "--config.mesh.model=4", "--config.mesh.fsdp=True", "--lost_after=10")
    log = {"JAX_DEBUG_LOG_MODULES": "jax._src.compiler"}
    with run_processes(count=2, devices=2, command=command, **cache, **log) as processes:
        first = read_until(processes[0], f"step {step + 3}/{STEPS}")
        processes[1].kill()
        rest = processes[0].communicate(timeout=60)[0]
        assert processes[0].returncode in (1, 6), "6 if JAX notices first"
        is_other = re.compile("step |[A-Z]+:[0-9-]+ ").match  # lines of log points and of JAX's log
        errors = [line for line in own_lines(rest) if not is_other(line)]
        assert errors == ["error: process 1 is gone; start the same command again"], rest
    lost = {key: value for key, value in losses(workdir).items() if key[0] > step}
    assert len(lost) >= 3 and saved_step(workdir) == step
    with run_processes(count=2, devices=2, command=command, **cache, **log) as processes:
        second = wait_all_ok(processes)[0]
    assert f"from step {step}" in second
    assert losses(workdir) | lost == losses(workdir), "the lost steps have the same bits"
    check_same_curve(workdir, whole)
    compiled = set(re.findall("CACHE MISS .* with key '(.*)'", first))
    assert len(compiled) > 2 and not compiled & set(re.findall("CACHE MISS .* with key '(.*)'", second))
    assert len(compiled & set(re.findall("cache hit .* with key '(.*)'", second))) > 2


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--workdir={}", r"error: workdir: found another \S+ on process 1 than on process 0, wanted one that all .*"),
        (
            "--config.init_from={}",
            r"error: checkpoint: found no \S+, wanted the .*|error: process 1: found an error, wanted none; .*",
        ),
    ],
    ids=["workdir", "init_from"],
)
def test_folder_of_one_process_alone_is_an_error_of_all(
    flag: str, message: str, whole: Path, corpus: Path, cache: dict[str, str], tmp_path: Path
) -> None:
    workdir, other = tmp_path / "run", tmp_path / "other"
    command, flags = pretrain(workdir, corpus, f"--config.init_from={whole}"), {1: [flag.format(other)]}
    with run_processes(count=2, devices=1, command=command, flags=flags, **cache) as processes:
        outputs = wait(processes)
    assert [process.returncode for process in processes] == [2, 2], outputs
    for output in outputs:
        (line,) = [line for line in own_lines(output) if "error" in line]
        assert re.fullmatch(message, line), output
    assert not list((workdir / "checkpoints").glob("*")) and not list(workdir.glob(".seen*"))
