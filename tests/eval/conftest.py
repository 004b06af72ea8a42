"""A pretrained workdir, GLUE's folders and a finished run, all tiny, for every test of fine-tuning."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

from symbert_jax import sharding
from symbert_jax.checkpoint import Checkpoints
from symbert_jax.config import Config, FinetuneConfig, GlueConfig, MeshConfig, to_json
from symbert_jax.data.vocabulary import SPECIAL
from symbert_jax.eval import finetune as finetune_module
from symbert_jax.eval.finetune import finetune
from symbert_jax.train import state as states
from tests.conftest import configure

GOOD, BAD = ("fine", "great", "lovely"), ("awful", "dull", "poor")
FILLERS = [f"w{i}" for i in range(40)]
# The arguments `single` and `pair` of `write_glue`. Every length costs a compilation. Single sentences fit in 8 tokens;
# the longest pairs are truncated to 24.
SINGLE, PAIR = (2, 4), (8, 10)
CONFIG = configure(model={"attention": "pairwise", "layers": 1, "length": 24}, data={"batch_size": 16})


def write_pretrained(folder: Path, config: Config) -> Path:
    """Writes a workdir with checkpoints 10 and 20, as `pretrain` does. Their parameters differ."""
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *GOOD, *BAD, *FILLERS]))
    (folder / "config.json").write_text(to_json(config))
    checkpoints = Checkpoints(epath.Path(folder), config.train)
    with jax.set_mesh(sharding.make_mesh(MeshConfig(), jax.devices()[:1])):
        state = states.init(config)
        for step in (10, 20):
            checkpoints.save(step, state.params, state.optimizer, config, validation_loss=5.0)
            state = state._replace(params=jax.tree.map(lambda leaf: leaf * 1.01, state.params))
    checkpoints.close()
    return folder


def write_glue(folder: Path, single: Sequence[int], pair: Sequence[int]) -> GlueConfig:
    """Writes tasks whose labels depend on the GOOD and BAD words in the sentence (SST-2, CoLA), in the second sentence
    (RTE), or in both sentences (STS-B, MNLI).

    single, pair: even numbers of words to choose from, for sentences alone and in pairs; a sentence has one more.
    """
    rng = np.random.default_rng(0)

    def write(name: str, header: str, lines: list[str]) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("".join(f"{line}\n" for line in [header, *lines]))

    def sentence(is_good: bool, words: int) -> str:
        chosen = [*rng.choice(FILLERS, words // 2), *rng.choice(GOOD if is_good else BAD, words // 2 + 1)]
        return " ".join(rng.permutation(chosen))

    def singles(count: int) -> list[str]:
        labels = rng.integers(0, 2, count)
        return [f"{sentence(bool(label), int(rng.choice(single)))}\t{label}" for label in labels]

    def pairs(count: int, label) -> list[str]:
        lines = []
        for i, (a, b) in enumerate(rng.integers(0, 2, (count, 2))):
            texts = [sentence(bool(is_good), int(rng.choice(pair))) for is_good in (a, b)]
            lines.append("\t".join([str(i), *texts, label(a, b)]))
        return lines

    nli = ("entailment", "neutral", "contradiction")
    for split, count in (("train", 200), ("dev", 61)):
        write(f"SST-2/{split}.tsv", "sentence\tlabel", singles(count))
        write(
            f"RTE/{split}.tsv",
            "index\tsentence1\tsentence2\tlabel",
            pairs(count, lambda a, b: "entailment" if b else "not_entailment"),
        )
        write(f"STS-B/{split}.tsv", "index\tsentence1\tsentence2\tscore", pairs(count, lambda a, b: f"{a + 2 * b}.0"))
        for file in ("train",) if split == "train" else ("dev_matched", "dev_mismatched"):
            lines = pairs(count, lambda a, b: nli[a + b])
            write(f"MNLI/{file}.tsv", "index\tsentence1\tsentence2\tgold_label", lines)
    for split, count in (("train", 200), ("dev", 61)):
        fields = [line.split("\t") for line in singles(count)]
        first, *rest = [f"source\t{label}\t\t{text}" for text, label in fields]
        write(f"CoLA/{split}.tsv", first, rest)  # its first example stands in for the header, which CoLA lacks
    write("SST-2/test.tsv", "index\tsentence", [f"{i}\t{line.split(chr(9))[0]}" for i, line in enumerate(singles(7))])
    for name in ("diagnostic/diagnostic", "STS-B/test"):
        unlabelled = [line.rpartition("\t")[0] for line in pairs(5, lambda a, b: "")]
        write(f"{name}.tsv", "index\tsentence1\tsentence2", unlabelled)
    return GlueConfig(f"tsv:{folder}")


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pretrained(tmp_path_factory.mktemp("pretrained"), CONFIG)


@pytest.fixture(scope="session")
def glue(tmp_path_factory: pytest.TempPathFactory) -> GlueConfig:
    return write_glue(tmp_path_factory.mktemp("glue"), SINGLE, PAIR)


@pytest.fixture(scope="session")
def base_config(pretrained: Path, glue: GlueConfig) -> FinetuneConfig:
    """SST-2 by the paper's protocol, with a learning rate for tiny models."""
    return FinetuneConfig((str(pretrained),), tasks=("sst2",), learning_rates=(3e-3,), epochs=3, seeds=1, glue=glue)


def finetune_on(config: FinetuneConfig, workdir: Path, devices: int = 1) -> Path:
    """Fine-tunes on the first `devices` devices; returns the workdir."""
    with pytest.MonkeyPatch.context() as patch:
        make_mesh = sharding.make_mesh
        patch.setattr(finetune_module, "make_mesh", lambda mesh: make_mesh(mesh, jax.devices()[:devices]))
        finetune(config, epath.Path(workdir))
    return workdir


@pytest.fixture(scope="session")
def finished_run(base_config: FinetuneConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a run of `base_config` with predictions and saved models."""
    config = dataclasses.replace(base_config, predictions=True, save_models=True)
    return finetune_on(config, tmp_path_factory.mktemp("finished"))


def read_results(workdir: Path) -> dict:
    """Returns results.json without its times."""
    return strip_seconds(json.loads((workdir / "results.json").read_text()))


def strip_seconds(node):
    if isinstance(node, dict):
        return {name: strip_seconds(value) for name, value in node.items() if name != "seconds"}
    return [strip_seconds(each) for each in node] if isinstance(node, list) else node


def read_tasks(workdir: Path) -> dict:
    """Returns the tasks of the first checkpoint in results.json."""
    return read_results(workdir)["checkpoints"][0]["tasks"]


def read_trials(workdir: Path) -> list[dict]:
    """Returns the results in trials.jsonl."""
    return [trial for line in (workdir / "trials.jsonl").read_text().splitlines() for trial in json.loads(line)]
