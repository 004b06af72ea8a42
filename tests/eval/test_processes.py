"""Fine-tuning has the same results after kills and in several processes as in one process without a kill."""

import dataclasses
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from etils import epath

from symbert_jax.config import FinetuneConfig
from symbert_jax.eval import saved
from tests.eval.conftest import finetune_on, read_results, read_trials
from tests.processes import ROOT


class Runs(NamedTuple):
    folder: Path  # holds the workdirs, which have the keys of `configs` as names
    configs: dict[str, FinetuneConfig]
    outputs: dict[str, list[tuple[int, str]]]  # exit code and output of each process


@pytest.fixture(scope="module")
def runs(base_config, tmp_path_factory) -> Runs:
    """The finished runs of forked_runs.py."""
    folder = tmp_path_factory.mktemp("runs")
    configs = {
        "killed": dataclasses.replace(base_config, epochs=1, tasks=("cola", "sst2"), seeds=4, together=2),
        "two": dataclasses.replace(base_config, epochs=1, predictions=True, save_models=True),
    }
    arguments = json.dumps({name: flags(config) for name, config in configs.items()})
    found = subprocess.run(
        [sys.executable, "-m", "tests.eval.forked_runs", arguments],
        env=os.environ
        | {
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore:os.fork",
            "JAX_PLATFORMS": "cpu",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        },
        **{"cwd": folder, "stdout": subprocess.PIPE, "text": True, "check": True, "timeout": 400},
    )
    return Runs(folder, configs, json.loads(found.stdout))


def flags(config: FinetuneConfig) -> list[str]:
    """Returns the command-line arguments for a config in which only the fields below differ from configs/glue.py."""
    changes = {
        "checkpoint": ",".join(config.checkpoint),
        "glue.source": config.glue.source,
        "tasks": ",".join(config.tasks),
        "learning_rates": ",".join(map(str, config.learning_rates)),
    }
    scalars = ("seeds", "epochs", "together", "predictions", "save_models")
    changes |= {field: getattr(config, field) for field in scalars}
    fields = [f"--config.{field}={value}" for field, value in changes.items()]
    return ["finetune", f"--config={ROOT}/configs/glue.py", *fields]


def test_killed_finetune_has_results_of_uninterrupted_run(runs, tmp_path) -> None:
    (code, output), (second_code, _), (last_code, last_output) = runs.outputs["killed"]
    assert (code, second_code, last_code) == (143, -9, 0), runs.outputs["killed"]
    assert output.endswith("\nSIGTERM: start the same command again to train the missing trials\n")
    assert "2/4 trials" in last_output  # the last start has four trials left of the eight
    lines = (runs.folder / "killed/trials.jsonl").read_text().splitlines()
    assert [len(json.loads(line)) for line in lines] == [2, 2, 2, 2]  # each of the eight trials once
    whole = finetune_on(runs.configs["killed"], tmp_path / "whole")
    assert read_results(runs.folder / "killed") == read_results(whole)
    assert {trial["trial"]["task"] for trial in read_trials(whole)} == {"cola", "sst2"}


def test_two_processes_have_results_of_one(runs, tmp_path) -> None:
    (code, output), (other_code, other_output) = runs.outputs["two"]
    assert code == other_code == 0, runs.outputs["two"]
    assert "| checkpoint | " in output and "sst2" not in other_output
    workdirs = runs.folder / "two", finetune_on(runs.configs["two"], tmp_path / "one")
    assert read_results(workdirs[0]) == read_results(workdirs[1])
    models = [saved.read_params(epath.Path(next(each.glob("models/*/sst2-*")))) for each in workdirs]
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-3), *models)
