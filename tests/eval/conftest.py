"""A pretrained workdir and GLUE's folders, both tiny, for every test of fine-tuning."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

from symbert_jax.checkpoint import Checkpoints
from symbert_jax.config import GlueConfig, MeshConfig, to_json
from symbert_jax.data.vocabulary import SPECIAL
from symbert_jax.sharding import make_mesh
from symbert_jax.train import state as states
from tests.conftest import configure

GOOD, BAD = ("fine", "great", "lovely"), ("awful", "dull", "poor")
FILLERS = [f"w{i}" for i in range(40)]
SINGLE, PAIR = (4, 18), (4, 8)  # words of a sentence: few lengths, for few compilations
CONFIG = configure(model={"attention": "pairwise", "length": 32}, data={"batch_size": 16})


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workdir with checkpoints 10 and 20, as `pretrain` leaves it."""
    folder = tmp_path_factory.mktemp("pretrained")
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *GOOD, *BAD, *FILLERS]))
    (folder / "config.json").write_text(to_json(CONFIG))
    checkpoints = Checkpoints(epath.Path(folder), CONFIG.train)
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        state = states.init(CONFIG)
        for step in (10, 20):
            checkpoints.save(step, state.params, state.optimizer, CONFIG, 5.0)
            state = state._replace(params=jax.tree.map(lambda leaf: leaf * 1.01, state.params))
    checkpoints.close()
    return folder


def sentence(rng: np.random.Generator, good: bool, words: int) -> str:
    chosen = [*rng.choice(FILLERS, words // 2), *rng.choice(GOOD if good else BAD, words // 2 + 1)]
    return " ".join(rng.permutation(chosen))


@pytest.fixture(scope="session")
def glue(tmp_path_factory: pytest.TempPathFactory) -> GlueConfig:
    """SST-2 can be learned; RTE asks the same of its second sentence, STS-B and MNLI of both."""
    folder, rng = tmp_path_factory.mktemp("glue"), np.random.default_rng(0)

    def write(name: str, header: str, lines: list[str]) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("".join(f"{line}\n" for line in [header, *lines]))

    def single(count: int) -> list[str]:
        good = rng.integers(0, 2, count)
        return [f"{sentence(rng, bool(g), int(rng.choice(SINGLE)))}\t{g}" for g in good]

    def pairs(count: int, label) -> list[str]:
        lines = []
        for i, (a, b) in enumerate(rng.integers(0, 2, (count, 2))):
            texts = [sentence(rng, bool(good), int(rng.choice(PAIR))) for good in (a, b)]
            lines.append("\t".join([str(i), *texts, label(a, b)]))
        return lines

    nli = ("entailment", "neutral", "contradiction")
    for part, count in (("train", 200), ("dev", 61)):
        write(f"SST-2/{part}.tsv", "sentence\tlabel", single(count))
        write(
            f"RTE/{part}.tsv",
            "index\tsentence1\tsentence2\tlabel",
            pairs(count, lambda a, b: "entailment" if b else "not_entailment"),
        )
        write(f"STS-B/{part}.tsv", "index\tsentence1\tsentence2\tscore", pairs(count, lambda a, b: f"{a + 2 * b}.0"))
        for file in ("train",) if part == "train" else ("dev_matched", "dev_mismatched"):
            lines = pairs(count, lambda a, b: nli[a + b])
            write(f"MNLI/{file}.tsv", "index\tsentence1\tsentence2\tgold_label", lines)
    write("SST-2/test.tsv", "index\tsentence", [f"{i}\t{line.split(chr(9))[0]}" for i, line in enumerate(single(7))])
    unlabelled = [line.rpartition("\t")[0] for line in pairs(5, lambda a, b: "")]
    write("diagnostic/diagnostic.tsv", "index\tsentence1\tsentence2", unlabelled)
    return GlueConfig(f"tsv:{folder}")


def results(workdir: Path) -> dict:
    """results.json without its times."""
    found = json.loads((workdir / "results.json").read_text())

    def strip(node):
        if isinstance(node, dict):
            return {name: strip(value) for name, value in node.items() if name != "seconds"}
        return [strip(each) for each in node] if isinstance(node, list) else node

    return strip(found)
