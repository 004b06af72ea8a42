"""Processes join each other, or report that they cannot, and compare values."""

import contextlib
import re
import shutil
from pathlib import Path

import jax
import pytest

from symbert_jax.data.manifest import read_manifest, write_manifest
from symbert_jax.distributed import join
from symbert_jax.errors import UserError
from tests.processes import free_port, own_lines, pretrain, run_processes, wait


def test_process_alone_exits_after_the_join_timeout(corpus: Path, tmp_path: Path) -> None:
    """Two processes are each alone: each waits for the other at an address of its own."""
    processes = []
    with contextlib.ExitStack() as stack:
        for number in (0, 1):
            flags = [
                "--join_timeout=2",
                f"--process={number}",
                "--processes=2",
                f"--coordinator=localhost:{free_port()}",
            ]
            command = pretrain(tmp_path, corpus, *flags)
            processes += stack.enter_context(run_processes(count=1, devices=1, command=command))
        for process, output in zip(processes, wait(processes), strict=True):
            (line,) = output.splitlines()
            assert process.returncode == 1
            assert re.match(
                r"error: processes: found fewer than 2 at localhost:\d+, wanted all of them within 2 s", line
            )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("error", "code"), [(ValueError("no such address"), 2), (RuntimeError("connection lost"), 1)])
def test_join_exit_code_depends_on_the_error(error: Exception, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher starts a process again after exit code 1, and not after 2."""

    def initialize(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(UserError, match=f"{type(error).__name__}: {error}") as raised:
        join(coordinator="localhost:1", process=0, processes=2, timeout=100, lost_after=100, saves=True)
    assert raised.value.exit_code == code


AGREEMENTS = """
import jax
import numpy as np
from symbert_jax.errors import UserError
from symbert_jax.distributed import connect_devices, join, same_on_all_processes, wait_for_all
from symbert_jax.sharding import AXES, local_row_indices, put_batch

join(coordinator=None, process=None, processes=None, timeout=100, lost_after=100, saves=False)
me, devices = jax.process_index(), jax.devices()

def compare(corpus, fails):
    try:
        with same_on_all_processes() as facts:
            facts |= {"seed": 1, "data.dir": corpus}
            if fails:
                raise UserError("data.dir", "nothing", "a corpus")
        print("the same")
    except UserError as error:
        print(error)

compare("corpus", fails=False)
compare(f"corpus {me}", fails=False)
compare("corpus", fails=me == 1)
grid = [[devices[0]], [devices[2]], [devices[3]], [devices[1]]]  # process 0 has the first rows and the last
mesh = jax.sharding.Mesh(grid, AXES, axis_types=(jax.sharding.AxisType.Explicit,) * 2)
rows = np.arange(8, dtype=np.int32)
with jax.set_mesh(mesh):
    connect_devices()
    batch = put_batch(rows[local_row_indices(8, mesh)])
is_equal = all((shard.data == rows[shard.index]).all() for shard in batch.addressable_shards)
print(local_row_indices(8, mesh), batch.shape, is_equal, flush=True)
if me == 1:
    raise UserError("disk", "none", "one")
wait_for_all("the end")
"""


def test_processes_on_slurm_join_compare_and_end_together() -> None:
    """The second process fails alone, while the first one waits for it."""
    slurm = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}
    slurm |= {"JAX_COORDINATOR_PORT": str(free_port())}
    processes = []
    with contextlib.ExitStack() as stack:
        for number in ("0", "1"):
            own = {"SLURM_PROCID": number, "SLURM_LOCALID": number}
            command = ["-c", AGREEMENTS]
            processes += stack.enter_context(run_processes(count=1, devices=2, command=command, **slurm, **own))
        outputs = wait(processes)
    assert [process.returncode for process in processes] == [1, 1], outputs
    is_connected = ["is connected to 3 peer ranks" in output for output in outputs]
    assert all(is_connected), "connect_devices connects all four devices"
    zero, one = map(own_lines, outputs)
    differ = "data.dir: found 'corpus {}' on process {}, wanted the same everywhere; processes 0 and 1 differ"
    assert zero == [
        "the same",
        differ.format(0, 0),
        "process 1: found an error, wanted none; see its output",
        "[0 1 6 7] (8,) True",
        "error: process 1 ended with an error; see its output; start the same command again",
    ]
    wanted = ["the same", differ.format(1, 1), "data.dir: found nothing, wanted a corpus", "[2 3 4 5] (8,) True"]
    assert one[:4] == wanted and one[-1] == "symbert_jax.errors.UserError: disk: found none, wanted one"


def test_another_corpus_on_one_process_ends_the_run(corpus: Path, tmp_path: Path) -> None:
    """The last two tokens of the vocabulary are swapped on process 1."""
    other = Path(shutil.copytree(corpus, tmp_path / "other", ignore=shutil.ignore_patterns("xla")))
    tokens = (other / "vocab.txt").read_text().splitlines()
    (other / "vocab.txt").write_text("\n".join([*tokens[:-2], *reversed(tokens[-2:])]))
    write_manifest(other, read_manifest(other).content)  # with the checksum of the new vocabulary
    flags = {1: [f"--config.data.dir={other}"]}
    with run_processes(count=2, devices=1, command=pretrain(tmp_path / "run", corpus), flags=flags) as processes:
        outputs = wait(processes)
    assert [process.returncode for process in processes] == [2, 2]
    for number, output in enumerate(outputs):
        (line,) = own_lines(output)
        found = rf"data.dir: found 'corpus \w+' on process {number}"
        assert re.fullmatch(f"error: {found}, wanted the same everywhere; .*", line)
    assert not (tmp_path / "run").exists()
