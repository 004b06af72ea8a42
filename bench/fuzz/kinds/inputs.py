"""Valid inputs that several kinds share."""

import contextlib
import functools
import io
import shutil
import tempfile
from pathlib import Path

import numpy as np

from bench.fuzz.attempts import command

FIXTURES = Path(__file__).parents[3] / "tests" / "fixtures"
VOCAB = FIXTURES / "transformers" / "vocab.txt"
PRETRAINED = FIXTURES / "checkpoint" / "workdir"  # 2 layers of width 16, rows of 16 tokens, step 40
SLOW_ODDS = 50  # slow code runs in one of SLOW_ODDS attempts
TINY = """\
from symbert_jax import config


def get_config():
    c = config.default()
    c.model.update(layers=2, dim=16, heads=2, mlp_dim=32, length=16, vocab_size=128, dtype="float32")
    c.data.update(dir="corpus", sources=("text:*.txt",), vocab="vocab.txt", validation_fraction=0.3, batch_size=8)
    c.optim.update(warmup_steps=2)
    c.train.update(steps=10)
    return c
"""
GLUE = """\
from symbert_jax import config


def get_config():
    c = config.default_finetune()
    c.update(checkpoint=("run",), tasks=("sst2",))
    c.glue.source = "tsv:glue"
    return c
"""


def make_texts(count: int = 8) -> list[str]:
    """Returns texts of 16 lines, made of words in VOCAB."""
    known = [word for word in VOCAB.read_text().split("\n") if word.isalpha()]
    rng = np.random.default_rng(0)
    return ["".join(" ".join(rng.choice(known, 20)) + f" {i}.\n" for _ in range(16)) for i in range(count)]


def write_texts(folder: Path, count: int = 8) -> None:
    for i, text in enumerate(make_texts(count)):
        (folder / f"text{i}.txt").write_text(text)


def write_glue(folder: Path) -> None:
    """Writes the config file GLUE as glue.py, and the files of its task."""
    (folder / "glue.py").write_text(GLUE)
    (folder / "glue" / "SST-2").mkdir(parents=True)
    for name in ("train", "dev"):
        (folder / "glue" / "SST-2" / f"{name}.tsv").write_text("sentence\tlabel\n" + "the cat sat\t0\nno cat\t1\n" * 8)


def write_corpus(folder: Path) -> None:
    """Writes the config file TINY as tiny.py, its texts, the vocabulary of PRETRAINED, and the prepared corpus."""
    shutil.copytree(prepared_corpus(), folder, dirs_exist_ok=True)


@functools.cache
def prepared_corpus() -> Path:
    """Returns the folder that `write_corpus` copies, which is written once per process."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz_corpus_"))
    write_texts(folder)
    shutil.copyfile(PRETRAINED / "vocab.txt", folder / "vocab.txt")
    (folder / "tiny.py").write_text(TINY)
    output = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        command("prepare", "--config=tiny.py", history=[])
    return folder
