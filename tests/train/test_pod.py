"""A run of several processes computes what one would, on whatever pod it goes on, and stops as one."""

import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.processes import PATIENCE, STEPS, ends, own_lines, pretrain, read_until, several
from tests.train.test_loop import metrics


def losses(workdir: Path) -> dict[tuple[int, str], float]:
    """Every loss of metrics.jsonl; each step is there once."""
    found = [(line["step"], name, line[name]) for line in metrics(workdir) for name in line if name.endswith("/loss")]
    assert len({key[:2] for key in found}) == len(found)
    return {(step, name): value for step, name, value in found}


def same_curve(workdir: Path, whole: Path, last: int = STEPS) -> None:
    wanted = {key: value for key, value in losses(whole).items() if key[0] <= last}
    assert losses(workdir) == pytest.approx(wanted, abs=1e-3) and len(wanted) >= last


@pytest.fixture(scope="module")
def cache(corpus: Path) -> dict[str, str]:
    return {"JAX_COMPILATION_CACHE_DIR": str(corpus / "xla")}


@pytest.fixture(scope="module")
def whole(corpus: Path, cache: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of one process with 8 devices that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("whole")
    with several(1, 8, pretrain(workdir, corpus), **cache) as processes:
        ends(processes)
    return workdir


@pytest.fixture(scope="module")
def stopped(corpus: Path, cache: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The workdir of 4 processes with 2 devices each of which one got a SIGHUP and a SIGTERM, and what they said."""
    workdir = tmp_path_factory.mktemp("stopped")
    with several(4, 2, pretrain(workdir, corpus, "--config.mesh.fsdp=True"), **cache) as processes:
        said = read_until(processes[0], f"step 5/{STEPS}")
        processes[3].send_signal(signal.SIGSTOP)  # the notice takes a second to spread: so small a run would end in it
        processes[2].send_signal(signal.SIGHUP)
        time.sleep(2)
        processes[2].send_signal(signal.SIGTERM)
        processes[3].send_signal(signal.SIGCONT)
        outputs = ends(processes)
    return workdir, [said + outputs[0], *outputs[1:]]


def saved(workdir: Path) -> int:
    (step,) = [int(path.name) for path in (workdir / "checkpoints").iterdir()]
    return step


def test_a_signal_on_one_process_saves_one_step_of_all(stopped: tuple[Path, list[str]], whole: Path) -> None:
    workdir, outputs = stopped
    step = saved(workdir)
    assert 5 <= step < STEPS
    assert f"SIGTERM: saved step {step}; the same command goes on from there" in outputs[0]
    assert own_lines(outputs[2]) == ["SIGTERM: the run is saving already; a third signal ends it at once"]
    assert metrics(workdir)[-1]["step"] == step, "no work is lost"
    same_curve(workdir, whole, step)


def test_only_the_first_process_speaks_and_writes(stopped: tuple[Path, list[str]]) -> None:
    workdir, (first, *others) = stopped
    assert "step 1/" in first and not [said for said in others if "step" in said or "BERT" in said]
    assert len(list((workdir / "tensorboard").iterdir())) == 1
    assert sorted(path.name for path in workdir.iterdir()) == [
        "checkpoints",
        "config.json",
        "metrics.jsonl",
        "tensorboard",
        "vocab.txt",
    ]


@pytest.mark.parametrize(("devices", "flags"), [(8, ["--config.mesh.model=2"]), (1, [])])
def test_a_run_of_4_processes_goes_on_in_one(
    devices: int, flags: list[str], stopped, whole: Path, corpus: Path, cache: dict[str, str], tmp_path: Path
) -> None:
    workdir = Path(shutil.copytree(stopped[0], tmp_path / "run"))
    with several(1, devices, pretrain(workdir, corpus, *flags), **cache) as processes:
        (said,) = ends(processes)
    assert f"on {devices} cpu" in said and f"from step {saved(stopped[0])}" in said
    same_curve(workdir, whole)


def test_it_goes_on_in_2_processes_of_which_one_is_killed(
    stopped, whole: Path, corpus: Path, cache: dict[str, str], tmp_path: Path
) -> None:
    """The columns of the model lie on both of them, so that both hold the same rows."""
    workdir, step = Path(shutil.copytree(stopped[0], tmp_path / "run")), saved(stopped[0])
    command = pretrain(workdir, corpus, "--config.mesh.model=4", "--config.mesh.fsdp=True", "--lost_after=10")
    log = {"JAX_DEBUG_LOG_MODULES": "jax._src.compiler"}
    with several(2, 2, command, **cache, **log) as processes:
        said = read_until(processes[0], f"step {step + 3}/{STEPS}")
        processes[1].kill()
        last = processes[0].communicate(timeout=60)[0]
        assert processes[0].returncode in (1, 6), "6 where JAX was faster"
        told = [
            line for line in own_lines(last) if not re.match("step |[A-Z]+:[0-9-]+ ", line)
        ]  # the latter of the log
        assert told == ["error: process 1 is gone; start the same command again"], last
    begun = {key: value for key, value in losses(workdir).items() if key[0] > step}
    assert len(begun) >= 3 and saved(workdir) == step
    with several(2, 2, command, **cache, **log) as processes:
        again = ends(processes)[0]
    assert f"from step {step}" in again
    assert losses(workdir) | begun == losses(workdir), "bit by bit the steps that were lost"
    same_curve(workdir, whole)
    compiled = set(re.findall("CACHE MISS .* with key '(.*)'", said))
    assert len(compiled) > 2 and not compiled & set(re.findall("CACHE MISS .* with key '(.*)'", again))
    assert len(compiled & set(re.findall("cache hit .* with key '(.*)'", again))) > 2


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ("--workdir={}", r"error: workdir: found another \S+ on process 1 than on process 0, wanted one that all .*"),
        ("--config.init_from={}", r"error: checkpoint: found no \S+, wanted the .*|error: process 1: found an error.*"),
    ],
)
def test_a_folder_that_only_one_process_has_is_told_by_all(
    own: str, message: str, whole: Path, corpus: Path, cache: dict[str, str], tmp_path: Path
) -> None:
    workdir, other = tmp_path / "run", tmp_path / "other"
    command = pretrain(workdir, corpus, f"--config.init_from={whole}")
    with several(2, 1, command, {1: [own.format(other)]}, **cache) as processes:
        outputs = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], outputs
    for said in outputs:
        (line,) = [line for line in own_lines(said) if "error" in line]
        assert re.fullmatch(message, line), said
    assert not list((workdir / "checkpoints").glob("*")) and not list(workdir.glob(".seen*"))
