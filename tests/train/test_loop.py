"""Pretraining runs in their own processes: they learn, and after any interruption they resume with the same bits."""

import contextlib
import functools
import json
import os
import random
import re
import signal
import termios
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath

from symbert_jax.data.rows import Split
from symbert_jax.data.vocabulary import SPECIAL
from symbert_jax.sharding import make_mesh
from symbert_jax.train import loop, phases
from tests.conftest import configure, write_corpus
from tests.forked import ForkedCommand
from tests.storage import Storage

STEPS = 200  # the steps of a run
SAVE_EVERY = 50  # steps between two checkpoints, and between two validations
LOG_EVERY = 7  # steps; every checkpoint but the last is between two log points


def arguments(workdir: Path | str, corpus: Path, *flags: str) -> list[str]:
    """Returns the command-line arguments of a run with configs/tiny.py."""
    changes = {"data.dir": corpus, "model.attention": "pairwise", "train.keep_latest": 9, "train.log_every": LOG_EVERY}
    changes |= {"train.steps": STEPS, "train.validate_every": SAVE_EVERY, "train.checkpoint_every": SAVE_EVERY}
    fields = [f"--config.{field}={value}" for field, value in changes.items()]
    return ["pretrain", "--config=configs/tiny.py", f"--workdir={workdir}", *fields, *flags]


def variables(corpus: Path) -> dict[str, str]:
    """Returns environment variables, without the XLA flags of other tests, which make programs slower to run.

    Without the caches of XLA itself, the keys of compiled programs do not depend on the folder of the cache.
    """
    cache = {"JAX_COMPILATION_CACHE_DIR": str(corpus / "xla"), "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none"}
    return cache | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}


def start(workdir: Path | str, corpus: Path, *flags: str, **environment: str) -> ForkedCommand:
    """Starts a run in a process; `environment` adds to its variables."""
    return ForkedCommand(arguments(workdir, corpus, *flags), os.environ | variables(corpus) | environment)


def finish_on_terminal(workdir: Path, corpus: Path) -> str:
    """Runs `pretrain` on a terminal of 80 columns, and returns what it writes there."""
    ends = os.openpty()
    termios.tcsetwinsize(ends[1], (25, 80))
    process = ForkedCommand(arguments(workdir, corpus), os.environ | variables(corpus), ends)
    output = bytearray()
    with process.stdout as reader, contextlib.suppress(OSError):  # EIO: the process has closed the terminal
        while part := reader.buffer.raw.read(1 << 16):
            output += part
    assert process.wait(timeout=200) == 0, output.decode()
    return output.decode()


def finish(process: ForkedCommand) -> str:
    """Returns the output of a process, which must end with exit code 0."""
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    return output


def wait_for(path: Path, process: ForkedCommand) -> None:
    """Waits until the path exists; fails if the process ends before."""
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


def arrays(workdir: Path, step: int = STEPS) -> dict[str, np.ndarray]:
    """Returns every array of a checkpoint by item and path."""
    folder = workdir / "checkpoints" / str(step)
    return {
        f"{item}{key}": np.asarray(leaf)
        for item in ("params", "optimizer")
        for key, leaf in flat(ocp.PyTreeCheckpointer().restore(folder / item))
    }


def flat(tree: object, path: str = ""):
    """Returns the path and the value of each leaf of a restored tree."""
    if not isinstance(tree, (dict, list, tuple)):
        return [] if tree is None else [(path, tree)]
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return [leaf for key, value in items for leaf in flat(value, f"{path}/{key}")]


def read_metrics(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("whole")
    output = finish(start(workdir, corpus))
    assert "Warning" not in output and "WARNING" not in output
    compiling = "compiling the training step for 64 rows of \\d+ tokens …"
    assert re.search(f"; from step 0\\n{compiling}\\nstep 7/200 4%  loss .*  data wait .*  eta .*\\n", output), output
    return workdir


@pytest.fixture(scope="module")
def results(whole: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, int, str]]:
    """Runs that take no step or few of them, by name: the workdir, the exit code and the output."""
    init_flags = [
        f"--config.{name}=1" for name in ("train.validate_every", "train.checkpoint_every", "optim.warmup_steps")
    ]
    init_flags += [f"--config.init_from={whole}@{STEPS}", "--config.train.steps=2"]
    runs = {
        "finished": (whole, []),
        "init_from": (tmp_path_factory.mktemp("init_from"), init_flags),
        "diverges": (
            tmp_path_factory.mktemp("diverges"),
            ["--config.optim.learning_rate=1e30", "--config.optim.clip=0"],
        ),
    }
    for change in ("seed=1", "data.batch_size=32", "optim.name=lamb"):
        runs[change] = (whole, ["--config.train.steps=500", f"--config.{change}"])
    config, found = (whole / "config.json").read_text(), {}
    for name, (workdir, flags) in runs.items():
        process = start(workdir, corpus, *flags, XLA_FLAGS=os.environ["XLA_FLAGS"])  # so few steps may be slow
        output, _ = process.communicate(timeout=200)
        found[name] = workdir, process.returncode, output
    assert (whole / "config.json").read_text() == config
    return found


def curve(workdir: Path, last: int = STEPS) -> list[dict]:
    """Returns the lines of metrics.jsonl up to a step, in their order, without the speed."""
    lines = [line for line in read_metrics(workdir) if line["step"] <= last]
    return [{name: value for name, value in line.items() if not name.startswith("speed/")} for line in lines]


def check_same_state(workdir: Path, whole: Path, step: int) -> None:
    """Checks that parameters and moments have the same bits."""
    found, wanted = arrays(workdir, step), arrays(whole, step)
    assert found.keys() == wanted.keys() and len(wanted) > 60
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)


def check_same_run(workdir: Path, whole: Path) -> None:
    """Checks that two runs have the same state and the same lines of metrics."""
    check_same_state(workdir, whole, STEPS)
    assert curve(workdir) == curve(whole)


def test_run_resumes_bitwise_after_a_kill_at_any_moment(whole: Path, corpus: Path, tmp_path: Path) -> None:
    """The output of the run is closed, another run tries to use its workdir; after the kill, metrics are damaged."""
    process = start(tmp_path, corpus)
    process.stdout.readline()
    process.stdout.close()  # as by `| head -1`
    other = start(tmp_path, corpus)
    output, _ = other.communicate(timeout=200)
    holder = rf"{tmp_path}, in use by process {process.pid} on \S+ since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d .*"
    assert other.returncode == 2 and re.fullmatch(f"error: workdir: found {holder}, wanted .*\n", output), output
    while not (tmp_path / "checkpoints" / str(SAVE_EVERY)).exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(random.Random().uniform(0, 0.3))  # without a seed: every moment must do
    process.kill()
    assert process.wait() == -signal.SIGKILL, "the run ended before it was killed"
    assert not (tmp_path / "checkpoints" / str(STEPS)).exists()
    lines = (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    broken = (b"\xff\xfe\n", b"[1]\n", b'{"step": "1"}\n', b'{"step": 1, "train/loss": NaN}\n')
    (tmp_path / "metrics.jsonl").write_bytes(b"".join([*lines[:2], *broken, *lines[2:]]))
    output = finish(start(tmp_path, corpus))
    assert "from step 0" not in output and output.count("warning") == 1
    assert f"warning: {tmp_path}/metrics.jsonl: line 3 and 3 others left out, not an object with a step" in output
    check_same_run(tmp_path, whole)


def check_bar(output: str) -> None:
    """Checks what a run writes to a terminal of 80 columns: no lines of log points, but a bar that fits."""
    states = [state.rstrip() for state in re.split("[\r\n]+", output)]
    bars = [state for state in states if re.match(r" *\d+%\|", state)]
    assert max(map(len, bars)) <= 80
    for program in ("training", "validation"):
        eta = "" if program == "training" else r", eta \d+m\d\ds"
        assert any(re.fullmatch(rf".*\| \d+/200 steps, compiling …{eta}", bar) for bar in bars), program
    assert re.fullmatch(r"100%\|█+\| 200/200 steps, loss \S+  [\d,]+ tokens/s, eta 0m00s", bars[-1]), bars[-1]
    assert any(re.fullmatch(r"step 50 validation loss \d\.\d{4}", state) for state in states)
    assert not [state for state in states if re.match("step .* lr ", state)]


def test_run_resumes_bitwise_after_a_signal(whole: Path, corpus: Path, tmp_path: Path) -> None:
    process = start(tmp_path, corpus)
    while "step 7/" not in (line := process.stdout.readline()):
        assert line, "the run ended early"
    process.send_signal(signal.SIGHUP)
    time.sleep(0.02)
    process.send_signal(signal.SIGINT)  # while the run saves
    output = finish(process)
    (saved,) = [int(path.name) for path in (tmp_path / "checkpoints").iterdir()]
    assert f"SIGHUP: saved step {saved}" in output and 7 <= saved < SAVE_EVERY and "Traceback" not in output
    assert output.count("SIGINT: the run is saving already; a third signal ends it at once\n") == 1
    output = finish_on_terminal(tmp_path, corpus)
    assert f"from step {saved}" in output
    check_bar(output)
    check_same_run(tmp_path, whole)


def test_signal_before_the_first_step_prints_one_line(corpus: Path, tmp_path: Path) -> None:
    process = start(tmp_path / "run", corpus)
    wait_for(tmp_path / "run" / "config.json", process)  # written after the lock was taken and before the step compiles
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 128 + signal.SIGTERM
    error, lines = "error: ended by SIGTERM before the first step; nothing is lost", output.splitlines()
    lines.remove(error)  # not always the last: until the process exits, its main thread goes on
    assert [line.split()[0] for line in lines] == ["pairwise", "compiling"][: len(lines)], output
    assert not (tmp_path / "run" / ".lock").exists()


def test_run_in_a_bucket_resumes_bitwise(whole: Path, corpus: Path, storage: Storage, tmp_path: Path) -> None:
    """Corpus, checkpoints, metrics, TensorBoard and compiled programs are in a bucket; the libraries are real."""
    for file in filter(Path.is_file, corpus.iterdir()):
        storage.write(f"corpus/{file.name}", {}, file.read_bytes())
    for file in (corpus / "xla").glob("jit_step-*"):  # the training step, which takes long to compile
        storage.write(f"xla/{file.name}", {}, file.read_bytes())
    names = set(storage.objects)
    environment = storage.environment | {"HOME": str(tmp_path), "JAX_COMPILATION_CACHE_DIR": "gs://bucket/xla"}

    def start_and_wait_for(step: int) -> ForkedCommand:
        process = start("gs://bucket/run", corpus, "--config.data.dir=gs://bucket/corpus", **environment)
        while f"run/checkpoints/{step}/commit_success.txt" not in storage.objects:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.01)
        return process

    process = start_and_wait_for(50)
    process.kill()
    assert "copying" in process.communicate()[0]
    process = start_and_wait_for(100)
    process.send_signal(signal.SIGTERM)
    output = finish(process)
    assert "from step 50" in output and "copying" not in output
    assert "Warning" not in output and "WARNING" not in output
    storage.copy_to(tmp_path / "run", "run/")
    check_same_state(tmp_path / "run", whole, step=100)
    assert curve(tmp_path / "run", last=100) == curve(whole, last=100)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {path.name for path in whole.iterdir()}
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 2, "one of each start"
    added = [name.split("-")[0] for name in storage.objects.keys() - names if name.startswith("xla/")]
    assert added and "xla/jit_step" not in added, "the programs of the bucket are read, and others are added"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("seed=1", "seed: found 1, wanted 0, with which"),
        ("data.batch_size=32", "data.batch_size: found 32, wanted 64, with which"),
        ("optim.name=lamb", "optim.name: found lamb, wanted adamw, with which"),
    ],
)
def test_run_does_not_resume_as_another_run(results, change: str, message: str) -> None:
    _, code, output = results[change]
    assert code == 2 and message in output and "Traceback" not in output


def test_run_starts_from_the_parameters_of_another(results, whole: Path) -> None:
    workdir, _, output = results["init_from"]
    assert f"from step 0, with the parameters of {whole}@{STEPS}\n" in output, output
    losses = [line["validation/loss"] for line in read_metrics(workdir) if "validation/loss" in line]
    wanted = pytest.approx(read_metrics(whole)[-1]["validation/loss"], rel=1e-5)
    assert losses[0] == wanted, "the first update has a learning rate of 0"
    assert losses[1] != wanted
    assert arrays(workdir, step=1)["optimizer/1/count"] == 1, "the optimizer is fresh"


def test_finished_run_has_nothing_to_do(results) -> None:
    _, code, output = results["finished"]
    assert code == 0 and "is at step 200 of 200 already: nothing to do" in output


def test_loss_that_is_not_finite_stops_the_run_without_a_checkpoint(results) -> None:
    workdir, code, output = results["diverges"]
    assert code == 2 and "train/loss: found nan" in output and "Traceback" not in output
    assert not list((workdir / "checkpoints").iterdir())


def test_run_that_stops_at_any_step_has_the_same_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run stops at a validation, between log points and at the last step; some batches have no token to predict."""
    train = {"steps": 8, "log_every": 3, "validate_every": 2, "validate_batches": 1, "checkpoint_every": 2}
    corpus = write_corpus(tmp_path / "corpus", unknown=(56, 0))
    data = {"dir": str(corpus), "batch_size": 8}
    config = configure(data=data, optim={"warmup_steps": 1}, train=train | {"keep_latest": 1})
    for module, make in ((phases, "make_train_step"), (loop, "make_validation_step")):  # to compile once
        monkeypatch.setattr(module, make, functools.cache(getattr(module, make)))
    monkeypatch.setattr(loop, "make_mesh", lambda mesh: make_mesh(mesh, jax.devices()[:1]))  # compiles faster
    loop.pretrain(config, epath.Path(tmp_path / "whole"))
    for steps in (4, 1, 3):  # the steps that each start takes; the run stops at 4, 5 and 8
        monkeypatch.setattr(loop.Stop, "should_stop", lambda self, step, steps=steps: "SIGTERM" * (step == steps))
        loop.pretrain(config, epath.Path(tmp_path / "run"))
    lines = curve(tmp_path / "whole")
    assert curve(tmp_path / "run") == lines
    assert [line["step"] for line in lines] == [2, 3, 4, 6, 6, 8, 8]
    assert [line.get("train/empty_steps", 0) for line in lines] == [0, 2, 0, 0, 0, 1, 0]
    found = {line["validation/loss"]: line["step"] for line in lines if "validation/loss" in line}
    assert found[min(found)] == 4, "the step whose loss is measured only after its checkpoint"
    for name in ("run", "whole"):
        assert {path.name for path in (tmp_path / name / "checkpoints").iterdir()} == {"4", "8"}
    check_same_state(tmp_path / "run", tmp_path / "whole", step=8)


def test_run_learns_from_context(whole: Path, corpus: Path) -> None:
    """The entropy of the validation tokens is a lower bound on the loss of every model that ignores context."""
    vocabulary = (corpus / "vocab.txt").read_text().splitlines()
    special = [vocabulary.index(token) for token in SPECIAL]
    split = Split(corpus, "validation")
    tokens = np.concatenate([record["tokens"] for record in split.__getitems__(range(len(split)))])
    counts = np.bincount(tokens[~np.isin(tokens, special)])
    frequency = counts[counts > 0] / counts.sum()
    bound = -(frequency * np.log(frequency)).sum()
    assert read_metrics(whole)[-1]["validation/loss"] < bound - 0.1


def test_run_writes_its_metrics(whole: Path) -> None:
    lines = read_metrics(whole)
    train = [line for line in lines if "train/loss" in line]
    assert [line["step"] for line in train] == [*range(LOG_EVERY, STEPS, LOG_EVERY), STEPS]
    assert set(train[0]) == {
        "step",
        "train/loss",
        "train/accuracy",
        "train/grad_norm",
        "train/learning_rate",
        "train/tokens",
        "speed/tokens_per_second",
        "speed/data_wait_fraction",
    }
    learning_rates = {line["step"]: line["train/learning_rate"] for line in train}
    assert learning_rates[14] == pytest.approx(5e-3 * 13 / 20)
    assert learning_rates[42] > learning_rates[STEPS] > 0
    assert [line["step"] for line in lines if "validation/loss" in line] == [50, 100, 150, 200]
    assert {path.name for path in whole.iterdir()} == {
        "checkpoints",
        "config.json",
        "metrics.jsonl",
        "tensorboard",
        "vocab.txt",
    }
