"""Processes find each other, or say that they do not, and compare what they found."""

import contextlib
import re
import shutil
from pathlib import Path

import jax
import pytest

from symbert_jax.data.manifest import read_manifest, write_manifest
from symbert_jax.distributed import join
from symbert_jax.errors import UserError
from tests.processes import PATIENCE, own_lines, port, pretrain, several


def test_process_without_the_others_exits_with_one_line_after_the_join_timeout(corpus: Path, tmp_path: Path) -> None:
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
def test_join_exit_code_says_whether_another_start_may_help(
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
from symbert_jax.errors import UserError
from symbert_jax.distributed import agreed, connect, join, wait_for_all
from symbert_jax.sharding import AXES, put_batch, rows_here

join(None, None, None, 100, 100, saves=False)
me, devices = jax.process_index(), jax.devices()

def find(corpus, mistaken):
    try:
        with agreed() as facts:
            facts |= {"seed": 1, "data.dir": corpus}
            if mistaken:
                raise UserError("data.dir", "nothing", "a corpus")
        print("the same")
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
print(rows_here(8, mesh), batch.shape, right, flush=True)
if me == 1:
    raise UserError("disk", "none", "one")
wait_for_all("who has failed")
"""


def test_processes_find_each_other_on_slurm_compare_what_they_found_and_end_together() -> None:
    """The second one fails alone, while the first one waits for it."""
    place = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}
    place |= {"JAX_COORDINATOR_PORT": str(port())}
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(
                several(1, 2, ["-c", AGREEMENTS], **place, SLURM_PROCID=str(number), SLURM_LOCALID=str(number))
            )[0]
            for number in (0, 1)
        ]
        outputs = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    assert [process.returncode for process in processes] == [1, 1], outputs
    assert all("is connected to 3 peer ranks" in said for said in outputs), (
        "before anything is compiled for all devices"
    )
    zero, one = map(own_lines, outputs)
    differ = "data.dir: found 'corpus {}' on process {}, wanted the same everywhere; processes 0 and 1 differ"
    assert zero == [
        "the same",
        differ.format(0, 0),
        "process 1: found an error, wanted none; that process says which",
        "[0 1 6 7] (8,) True",
        "error: process 1 ended with an error, which it names; start the same command again",
    ]
    wanted = ["the same", differ.format(1, 1), "data.dir: found nothing, wanted a corpus", "[2 3 4 5] (8,) True"]
    assert one[:4] == wanted and one[-1] == "symbert_jax.errors.UserError: disk: found none, wanted one"


def test_another_corpus_on_one_process_is_found_before_the_first_step(corpus: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(corpus, tmp_path / "other", ignore=shutil.ignore_patterns("xla")))
    words = (other / "vocab.txt").read_text().splitlines()
    (other / "vocab.txt").write_text("\n".join([*words[:-2], *reversed(words[-2:])]))
    write_manifest(other, read_manifest(other).content)
    with several(2, 1, pretrain(tmp_path / "run", corpus), {1: [f"--config.data.dir={other}"]}) as processes:
        outputs = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    for number, said in enumerate(outputs):
        (line,) = own_lines(said)
        assert re.fullmatch(
            rf"error: data.dir: found 'corpus \w+' on process {number}, wanted the same everywhere; .*", line
        )
    assert not (tmp_path / "run").exists()
