"""Fine-tuning in processes that are killed, and in several processes, has the results of one process."""

import dataclasses
import json
from functools import partial

import jax
import numpy as np
from etils import epath

from symbert_jax.eval import saved
from tests.command_line import run_commands
from tests.eval.conftest import finetune_on, read_results, read_trials
from tests.processes import ends, several


def command(workdir, config) -> list[str]:
    """The arguments of `finetune` that make `config` of the paper's protocol."""
    changes = {
        "checkpoint": ",".join(config.checkpoint),
        "glue.source": config.glue.source,
        "tasks": ",".join(config.tasks),
        "learning_rates": ",".join(map(str, config.learning_rates)),
    }
    changes |= {
        field: getattr(config, field) for field in ("seeds", "epochs", "together", "predictions", "save_models")
    }
    flags = [f"--config.{field}={value}" for field, value in changes.items()]
    return ["finetune", "--config=configs/glue.py", f"--workdir={workdir}", *flags]


def test_killed_finetune_has_results_of_uninterrupted_run(base_config, tmp_path) -> None:
    config = dataclasses.replace(base_config, tasks=("sst2", "rte"), seeds=4, together=2, epochs=1)
    killed, log = tmp_path / "killed", tmp_path / "killed" / "trials.jsonl"
    results = run_commands(
        [command(killed, config)] * 3,
        imports=["symbert_jax.eval.finetune", "tests.eval.killed_writes"],
        JAX_PLATFORMS="cpu",
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
    )
    assert [result.returncode for result in results] == [143, -9, 0], [result.stderr for result in results]
    assert results[0].stderr == "\nSIGTERM: start the same command again to train the missing trials\n"
    assert [len(json.loads(line)) for line in log.read_text().splitlines()] == [2, 2, 2, 2]  # each trial once
    whole = finetune_on(config, tmp_path / "whole")
    assert read_results(killed) == read_results(whole)
    assert len({trial["trial"]["task"] for trial in read_trials(killed)}) == 2


def test_two_processes_have_results_of_one(base_config, finished_run, pretrained, tmp_path) -> None:
    arguments = command(tmp_path / "two", dataclasses.replace(base_config, predictions=True, save_models=True))
    cache = str(pretrained / "xla")
    with several(2, 2, ["-m", "symbert_jax", *arguments], JAX_COMPILATION_CACHE_DIR=cache) as processes:
        output, other = ends(processes)
    assert "| checkpoint | " in output and "sst2" not in other
    assert read_results(tmp_path / "two") == read_results(finished_run)
    folders = [next(workdir.glob("models/*/sst2-*")) for workdir in (tmp_path / "two", finished_run)]
    models = [saved.read_params(epath.Path(folder)) for folder in folders]
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-3), *models)
