"""Runs without checkpoints."""

import dataclasses
import json
from pathlib import Path

from etils import epath

from symbert_jax.config import Config, DataConfig, ModelConfig, to_json

CONFIG = Config(
    model=ModelConfig(layers=1, dim=16, heads=2, mlp_dim=32, length=8, vocab_size=16, dtype="float32"),
    data=DataConfig(batch_size=4),
)


def configure_attention(attention: str) -> Config:
    return dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, attention=attention))


def write_run(workdir: Path, losses: dict[int, float], config: Config = CONFIG, *more: dict) -> epath.Path:
    """Writes the config of a run, its validation losses by step, and more lines of metrics; returns its workdir."""
    lines = [{"step": step, "validation/loss": loss} for step, loss in losses.items()]
    return write_files(workdir, to_json(config), "".join(json.dumps(line) + "\n" for line in (*lines, *more)))


def write_files(workdir: Path, config: str, metrics: str) -> epath.Path:
    """Writes the two files of a run that `compare` reads; returns its workdir."""
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(config)
    (workdir / "metrics.jsonl").write_text(metrics)
    return epath.Path(workdir)
