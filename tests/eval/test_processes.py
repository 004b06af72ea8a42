"""Fine-tuning as processes of their own: killed, and several of them, they leave what one leaves."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial

import jax
import numpy as np
import pytest
from etils import epath

from symbert_jax.config import FinetuneConfig
from symbert_jax.errors import UserError
from symbert_jax.eval import saved
from symbert_jax.eval.finetune import finetune
from tests.eval.conftest import results, sentence
from tests.processes import PATIENCE, ROOT, own_lines, run_processes, wait_all_ok


def test_killed_and_started_again_the_results_are_the_same(pretrained, glue, tmp_path) -> None:
    started = contextlib.ExitStack()

    def start(name: str) -> subprocess.Popen:
        arguments = [
            *("--config=configs/glue.py", f"--workdir={tmp_path / name}", f"--config.checkpoint={pretrained}"),
            *("--config.tasks=sst2,rte", "--config.seeds=4", "--config.together=2", "--config.epochs=1"),
            *(f"--config.glue.source={glue.source}", "--config.learning_rates=1e-3"),
        ]
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
        command = [sys.executable, "-m", "symbert_jax", "finetune", *arguments]
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        process = started.enter_context(subprocess.Popen(command, cwd=ROOT, env=environment, **pipes))
        started.callback(process.kill)
        return process

    killed, log = tmp_path / "killed", tmp_path / "killed" / "trials.jsonl"
    with started:
        whole = start("whole")
        for finished, kill in ((1, signal.SIGTERM), (2, signal.SIGKILL)):
            process = start("killed")
            while not (log.exists() and log.read_text().count("\n") >= finished) and process.poll() is None:
                time.sleep(0.01)
            if kill == signal.SIGTERM:
                with pytest.raises(UserError, match=f"workdir: found {killed}, in use by process {process.pid} on "):
                    finetune(FinetuneConfig((str(pretrained),), glue=glue), epath.Path(killed))
            process.send_signal(kill)
            _, said = process.communicate()
            assert not (killed / "results.json").exists(), "killed too late to show anything"
            if kill == signal.SIGTERM:
                assert (process.returncode, said) == (143, "\nSIGTERM: the same command trains what is missing\n")
            with log.open("a") as file:
                file.write('[{"trial": {"checkp')  # as a kill in the middle of a write leaves it
        before = log.read_text().splitlines()[:-1]
        again = start("killed")
        assert whole.wait() == again.wait() == 0
        assert len(before) < len(log.read_text().splitlines())
    one, other = (
        re.sub(r'"seconds": .*', "", (tmp_path / name / "results.json").read_text()) for name in ("killed", "whole")
    )
    assert one == other


def test_two_processes_leave_what_one_leaves(pretrained, tmp_path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "SST-2").mkdir()
    for part, count in (("train", 60), ("dev", 21), ("test", 7)):  # of one length, for few compilations
        lines = [(str(i), sentence(rng, bool(i % 2), 5), str(i % 2)) for i in range(count)]
        columns = ("index", "sentence") if part == "test" else ("index", "sentence", "label")
        text = "".join("\t".join(line[: len(columns)]) + "\n" for line in (columns, *lines))
        (tmp_path / "SST-2" / f"{part}.tsv").write_text(text)
    changes = {
        "tasks": "sst2",
        "seeds": 1,
        "epochs": 2,
        "learning_rates": 3e-3,
        "predictions": True,
        "save_models": True,
    }
    changes |= {"checkpoint": pretrained, "glue.source": f"tsv:{tmp_path}"}
    flags = [f"--config.{field}={value}" for field, value in changes.items()]
    for name, count, devices in (("one", 1, 4), ("two", 2, 2)):
        command = ["-m", "symbert_jax", "finetune", "--config=configs/glue.py", f"--workdir={tmp_path / name}", *flags]
        with run_processes(count, devices, command, JAX_COMPILATION_CACHE_DIR=str(pretrained / "xla")) as processes:
            said, *others = wait_all_ok(processes)
        assert "| checkpoint | " in said and not [said for said in others if "sst2" in said]
    assert results(tmp_path / "two") == results(tmp_path / "one")
    models = [saved.read(epath.Path(next((tmp_path / name).glob("models/*/sst2-*")))) for name in ("one", "two")]
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-3), *models)


def test_a_workdir_that_only_one_process_sees_is_told_by_all(pretrained, glue, tmp_path) -> None:
    flags = [f"--config.checkpoint={pretrained}", f"--config.glue.source={glue.source}", "--config.tasks=sst2"]
    command = ["-m", "symbert_jax", "finetune", "--config=configs/glue.py", *flags]
    own = {number: [f"--workdir={tmp_path / str(number)}"] for number in (0, 1)}
    with run_processes(2, 1, command, own, JAX_COMPILATION_CACHE_DIR=str(pretrained / "xla")) as processes:
        outputs = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], outputs
    for said in outputs:
        (line,) = own_lines(said)
        assert re.fullmatch(r"error: workdir: found another \S+ on process 1 than on process 0, wanted .*", line)
