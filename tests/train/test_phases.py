"""A run of several phases is one run: killed and started again, it gives the same bits."""

import dataclasses
import json
import os
import re
import time
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath

from symbert_jax.checkpoint import Checkpoints
from symbert_jax.config import Config, phases
from symbert_jax.data.corpus import Corpora
from symbert_jax.data.stream import open_streams
from symbert_jax.errors import UserError
from symbert_jax.metrics import Clock
from symbert_jax.progress import Progress
from symbert_jax.train import loop
from symbert_jax.train.events import Events
from symbert_jax.train.phases import OpenPhase, check_memory, flops_until, open_phases
from symbert_jax.train.state import State
from symbert_jax.train.step import Sums, abstract_batch
from symbert_jax.train.window import Window
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
    compiling = re.findall("compiling the training step for (.+) …\n", outputs[0])
    assert compiling == ["8 rows of 16 tokens", "16 rows of 16 tokens", "8 rows of 32 tokens"]
    assert read_metrics(folder / "killed") == read_metrics(folder / "whole")
    assert [line["step"] for line in read_metrics(folder / "whole") if "validation/loss" in line] == [3, 6, 8]
    restored = [
        ocp.PyTreeCheckpointer().restore(folder / name / "checkpoints/8/params") for name in ("whole", "killed")
    ]
    jax.tree.map(np.testing.assert_array_equal, *restored)


def test_eta_is_right_in_every_phase(folder: Path, mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes the time of its FLOPs, twice that in the last phase; a validation, 30 s; a compilation, 1,000 s."""
    config = configure(
        model={"length": 32},
        data={"dir": str(folder / "long"), "batch_size": 8, "batch_warmup": (8,), "batch_warmup_steps": 2},
        train={"phases": (PHASE.format(folder / "short"),), "steps": 10, "validate_every": 2, "validate_batches": 1},
    )
    opened = open_phases(config, open_streams(config, Corpora(), np.arange))
    seconds_per_flop = [60 / opened[0].flops * slowdown for slowdown in (1, 1, 2)]
    diagnose = Mock(return_value={})
    now, compiled, sums = [0.0], set[object](), {"loss": (jnp.ones(()), jnp.ones(()))}
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def run(program: object, seconds: float) -> Sums:
        now[0] += seconds + 1000 * (program not in compiled)
        compiled.add(program)
        return sums

    for i, each in enumerate(opened):
        step_seconds = each.flops * seconds_per_flop[i]
        train_step = lambda state, batch, i=i, seconds=step_seconds: (state, run(i, seconds))  # noqa: E731
        opened[i] = dataclasses.replace(each, train_step=train_step, diagnose=diagnose)
    shown = Progress("steps", 10, work=flops_until(opened, 10), is_shown=False)
    events = SimpleNamespace(config=config, phases=opened, progress=shown, clock=Clock(0), window=Window("train"))
    events.metrics, events.trace, events._show = Mock(), Mock(step=Mock(return_value=nullcontext())), Mock()
    events.phase_of, events._cost = partial(Events.phase_of, events), Mock(return_value=(1, 1.0, 1.0))
    events._tokens_until = Mock(return_value=1)
    events.validation_step = lambda params, batch: run(batch.tokens.shape, 30)
    state, batch = State(jnp.zeros((), int), {}, {}), abstract_batch(config)
    for step in range(1, 11):
        Events.update(events, step, state, batch)
        if Events.is_first_of_phase(events, step):
            Events.start_clock(events, step)
        Events.log(events, step)
        if step > 1:  # the first step is not measured, nor are the first step of a phase and the first validation
            speed = seconds_per_flop[0 if step <= 5 else 2]
            validations = 0 if step <= 4 else (10 - step) // 2 + 1
            minutes, seconds = re.fullmatch(r"eta (\d+)m(\d\d)s", shown.eta).groups()
            wanted = (shown.work - flops_until(opened, step)) * speed + 30 * validations
            assert 60 * int(minutes) + int(seconds) == pytest.approx(wanted, abs=1), step
        if step % 2 == 0:
            Events.validate(events, step, state)
    assert shown.worked == shown.work and shown.eta == "eta 0m00s"


def test_first_lines_name_the_kernel_of_each_phase(config, opened, tmp_path: Path, monkeypatch) -> None:
    with closing(Checkpoints(epath.Path(tmp_path), config.train)) as checkpoints:
        (line, *of_phases) = loop._opening(config, opened, checkpoints, 0)
        assert ", xla attention; 2 phases" in line and not any("attention" in each for each in of_phases)
        monkeypatch.setattr(loop.kernels, "choose", lambda *arguments: "short" if arguments[-1] == 16 else "splash")
        (line, *of_phases) = loop._opening(config, opened, checkpoints, 0)
    assert ", short and splash attention; 2 phases" in line
    assert [each.rpartition(", ")[2] for each in of_phases] == ["short attention", "splash attention"]


@pytest.fixture
def config(folder: Path) -> Config:
    """A config of two phases."""
    return configure(
        model={"length": 32, "remat": "full"},
        data={"dir": str(folder / "long"), "batch_size": 16},
        train={"phases": (f"4: model.length=16 data.dir={folder / 'short'}",)},
    )


@pytest.fixture
def opened(config: Config, mesh) -> list[OpenPhase]:
    return open_phases(config, open_streams(config, Corpora(), find_local_rows=np.arange))


def test_memory_of_later_phases_is_checked_before_the_run(config: Config, opened: list[OpenPhase], capsys) -> None:
    shown = Progress("steps", 9)
    check_memory(config, opened, start=4, limit=1, progress=shown)  # the last phase has begun
    assert not capsys.readouterr().out
    check_memory(config, opened, start=3, limit=2**40, progress=shown)
    assert capsys.readouterr().out == "compiling the training step for 16 rows of 32 tokens …\n"
    opened[1] = dataclasses.replace(opened[1], phase=phases(config)[1]._replace(name="train.phases: 9"))
    with pytest.raises(UserError, match=r"train.phases: 9: memory: found 0.00 GiB per device, wanted at most 0.00 GiB"):
        check_memory(config, opened, start=3, limit=1, progress=shown)
