"""A run of several phases is one run: killed and started again, it gives the same bits."""

import dataclasses
import json
import os
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from symbert_jax.config import phases
from symbert_jax.data.corpus import Corpora
from symbert_jax.data.stream import open_streams
from symbert_jax.errors import UserError
from symbert_jax.train.phases import check_memory, open_phases
from tests.conftest import configure, write_corpus
from tests.forked import ForkedCommand

# Two steps of 8 rows of 16 tokens, two of 16, then four of 8 rows of 32 tokens from another corpus.
PHASE = "4: model.length=16 data.dir={} data.batch_size=16 optim.accumulate=2"
FIELDS = {
    "model.length": 32, "model.layers": 1, "model.dropout": 0, "model.attention_dropout": 0, "data.batch_size": 8,
    "data.batch_warmup": 8, "data.batch_warmup_steps": 2, "optim.warmup_steps": 2, "train.steps": 8,
    "train.log_every": 1, "train.validate_every": 3, "train.checkpoint_every": 3, "train.keep_latest": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the corpora of both lengths."""
    folder = tmp_path_factory.mktemp("phases")
    write_corpus(folder / "short")
    write_corpus(folder / "long", length=32)
    return folder


def command(folder: Path, name: str) -> list[str]:
    """Returns the arguments of a run in the workdir `name`."""
    fields = FIELDS | {"data.dir": folder / "long", "train.phases": PHASE.format(folder / "short")}
    flags = [f"--config.{field}={value}" for field, value in fields.items()]
    return ["pretrain", "--config=configs/tiny.py", f"--workdir={folder / name}", *flags]


def read_metrics(workdir: Path) -> list[dict[str, float]]:
    """Returns the lines of metrics.jsonl without speeds, which differ from run to run."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith("speed/")} for line in lines]


def test_run_killed_in_its_second_phase_resumes_in_the_first_with_the_same_bits(folder: Path) -> None:
    """The kill comes after step 5, and the latest checkpoint is step 3."""
    environment = os.environ | {"KILLED": str(folder / "killed"), "KILLED_AFTER": "5", "JAX_PLATFORMS": "cpu"}
    codes, outputs = [], []
    for name in ("whole", "killed", "killed"):
        process = ForkedCommand(command(folder, name), environment)
        outputs.append(process.communicate(timeout=200)[0])
        codes.append(process.returncode)
    assert codes == [0, -9, 0], outputs
    assert "; 3 phases; from step 3\n" in outputs[2]
    assert f"until step 2: batches of 8, 64 rows of 16 tokens, 0.25 epochs in {folder}/short\n" in outputs[0]
    assert read_metrics(folder / "killed") == read_metrics(folder / "whole")
    assert [line["step"] for line in read_metrics(folder / "whole") if "validation/loss" in line] == [3, 6, 8]
    restored = [
        ocp.PyTreeCheckpointer().restore(folder / name / "checkpoints/8/params") for name in ("whole", "killed")
    ]
    jax.tree.map(np.testing.assert_array_equal, *restored)


def test_memory_of_later_phases_is_checked_before_the_run(folder: Path, mesh) -> None:
    config = configure(
        model={"length": 32, "remat": "full"},
        data={"dir": str(folder / "long"), "batch_size": 16},
        train={"phases": (f"4: model.length=16 data.dir={folder / 'short'}",)},
    )
    opened = open_phases(config, open_streams(config, Corpora(), find_local_rows=np.arange))
    check_memory(config, opened, start=4, limit=1)  # the last phase has begun
    check_memory(config, opened, start=3, limit=2**40)
    opened[1] = dataclasses.replace(opened[1], phase=phases(config)[1]._replace(name="train.phases: 9"))
    with pytest.raises(UserError, match=r"train.phases: 9: memory: found 0.00 GiB per device, wanted at most 0.00 GiB"):
        check_memory(config, opened, start=3, limit=1)
