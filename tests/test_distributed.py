"""Several real processes on one machine, a pod in small: they compute what one would, and stop together."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from symbert_jax.config import UserError
from symbert_jax.distributed import join
from tests.train.test_loop import ROOT, metrics

STEPS = 16
PATIENCE = 400  # seconds, after which a process hangs


def port() -> int:
    """A free one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def several(count: int, devices: int, command: list[str], own: dict[int, list[str]] | None = None, **environment: str):
    """`count` processes of `command`, each with its own further arguments and number of CPU devices; none survives."""
    place = [f"--coordinator=127.0.0.1:{port()}", f"--processes={count}"] if count > 1 else []
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)} | environment
    processes = []
    try:
        for number in range(count):
            mine = [*place, f"--process={number}"] if place else []
            processes.append(
                subprocess.Popen(
                    [sys.executable, *command, *mine, *(own or {}).get(number, [])],
                    **{"cwd": ROOT, "env": environment, "text": True},
                    **{"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT},
                )
            )
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def pretrain(workdir: Path, corpus: Path, *flags: str) -> list[str]:
    changes = {
        "data.dir": corpus,
        "data.batch_size": 16,
        "model.attention": "pairwise",
        "model.layers": 1,
        "optim.warmup_steps": 2,
        "train.steps": STEPS,
        "train.log_every": 1,
        "train.validate_every": STEPS,
        "train.validate_batches": 1,
        "train.checkpoint_every": STEPS,
    }
    fields = [f"--config.{field}={value}" for field, value in changes.items()]
    return ["-m", "symbert_jax", "pretrain", "--config=configs/tiny.py", f"--workdir={workdir}", *fields, *flags]


def ends(processes: list[subprocess.Popen]) -> list[str]:
    """What each of them said; all ended well."""
    outputs = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(outputs)
    return outputs


def read_until(process: subprocess.Popen, text: str) -> str:
    said = ""
    while text not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    return said


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
    """The workdir of 4 processes with 2 devices each of which one got a SIGTERM, and what they said."""
    workdir = tmp_path_factory.mktemp("stopped")
    with several(4, 2, pretrain(workdir, corpus, "--config.mesh.fsdp=True"), **cache) as processes:
        said = read_until(processes[0], f"step 5/{STEPS}")
        processes[3].send_signal(signal.SIGSTOP)  # the notice takes a second to spread: so small a run would end in it
        processes[2].send_signal(signal.SIGTERM)
        time.sleep(2)
        processes[3].send_signal(signal.SIGCONT)
        outputs = ends(processes)
    return workdir, [said + outputs[0], *outputs[1:]]


def saved(workdir: Path) -> int:
    (step,) = [int(path.name) for path in (workdir / "checkpoints").iterdir()]
    return step


def test_sigterm_on_one_process_saves_one_step_of_all(stopped: tuple[Path, list[str]], whole: Path) -> None:
    workdir, outputs = stopped
    step = saved(workdir)
    assert 5 <= step < STEPS
    assert f"SIGTERM: saved step {step}; the same command goes on from there" in outputs[0]
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
        said += processes[0].communicate(timeout=60)[0]
        assert processes[0].returncode not in (0, None)
        assert "Connection" in said or "Terminating process" in said, said
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


def test_a_process_that_does_not_come_is_one_line_after_the_time_given(corpus: Path, tmp_path: Path) -> None:
    """Process 0 waits for the other, process 1 for process 0."""
    with contextlib.ExitStack() as stack:
        for number in (0, 1):
            flags = ["--join_timeout=2", f"--process={number}", "--processes=2", f"--coordinator=localhost:{port()}"]
            (process,) = stack.enter_context(several(1, 1, pretrain(tmp_path, corpus, *flags)))
            (line,) = process.communicate(timeout=PATIENCE)[0].splitlines()
            assert process.returncode == 1
            assert re.match(
                r"error: processes: found fewer than 2 at localhost:\d+, wanted all of them within 2 s", line
            )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("error", "code"), [(ValueError("no such place"), 2), (RuntimeError("connection lost"), 1)])
def test_what_another_start_may_mend_has_an_exit_code_of_its_own(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launcher starts again after 1 and not after 2."""

    def initialize(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(UserError, match=f"{type(error).__name__}: {error}") as raised:
        join("localhost:1", 0, 2, 100, 100, saves=True)
    assert raised.value.exit_code == code


AGREEMENTS = """
import jax
import numpy as np
from symbert_jax.config import UserError
from symbert_jax.distributed import agreed, connect, join
from symbert_jax.sharding import AXES, put_batch, rows_here

join(None, None, None, 100, 100, saves=False)
me, devices = jax.process_index(), jax.devices()

def find(corpus, mistaken):
    try:
        with agreed() as facts:
            facts |= {"seed": 1, "data.dir": corpus}
            if mistaken:
                raise UserError("data.dir", "nothing", "a corpus")
        print("alike")
    except UserError as error:
        print(error)

find("corpus", False)
find(f"corpus {me}", False)
find("corpus", me == 1)
wires = [[devices[0]], [devices[2]], [devices[3]], [devices[1]]]
mesh = jax.sharding.Mesh(wires, AXES, axis_types=(jax.sharding.AxisType.Explicit,) * 2)
rows = np.arange(8, dtype=np.int32)
with jax.set_mesh(mesh):
    connect()
    batch = put_batch(rows[rows_here(8, mesh)])
right = all((shard.data == rows[shard.index]).all() for shard in batch.addressable_shards)
print(rows_here(8, mesh), batch.shape, right)
"""


def own_lines(said: str) -> list[str]:
    """Without those of Gloo, whose threads may break each other's in two."""
    return [line for line in said.splitlines() if "[Gloo]" not in line and "peer ranks" not in line]


def test_processes_find_each_other_on_slurm_and_compare_what_they_found() -> None:
    place = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}
    place |= {"JAX_COORDINATOR_PORT": str(port())}
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(
                several(1, 2, ["-c", AGREEMENTS], **place, SLURM_PROCID=str(number), SLURM_LOCALID=str(number))
            )[0]
            for number in (0, 1)
        ]
        outputs = ends(processes)
    assert all("is connected to 3 peer ranks" in said for said in outputs), (
        "before anything is compiled for all devices"
    )
    zero, one = map(own_lines, outputs)
    differ = "data.dir: found 'corpus {}' on process {}, wanted the same everywhere; processes 0 and 1 differ"
    assert zero == [
        "alike",
        differ.format(0, 0),
        "process 1: found an error, wanted none; that process says which",
        "[0 1 6 7] (8,) True",
    ]
    assert one == ["alike", differ.format(1, 1), "data.dir: found nothing, wanted a corpus", "[2 3 4 5] (8,) True"]


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


def test_another_corpus_on_one_process_is_found_before_the_first_step(corpus: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(corpus, tmp_path / "other", ignore=shutil.ignore_patterns("xla")))
    words = (other / "vocab.txt").read_text().splitlines()
    (other / "vocab.txt").write_text("\n".join([*words[:-2], *reversed(words[-2:])]))
    with several(2, 1, pretrain(tmp_path / "run", corpus), {1: [f"--config.data.dir={other}"]}) as processes:
        outputs = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    for number, said in enumerate(outputs):
        (line,) = own_lines(said)
        assert re.fullmatch(
            rf"error: data.dir: found 'corpus \w+' on process {number}, wanted the same everywhere; .*", line
        )
    assert not (tmp_path / "run").exists()
