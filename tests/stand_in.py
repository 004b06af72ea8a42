"""Fills a folder in which the tests run the documented commands, in place of a user's working directory: texts, books,
the TSV files of GLUE, a vocabulary, and the documented configs with tiny models and short runs."""

import gzip
import itertools
import json
import random
import shutil
from pathlib import Path

from ml_collections import ConfigDict

from symbert_jax.data.sources import bookcorpus
from symbert_jax.data.vocabulary import SPECIAL
from symbert_jax.eval.tasks import TASKS
from tests.documents import ROOT

CONFIG_NAMES = [path.stem for path in (ROOT / "configs").glob("*.py")]
# A config file in configs/ of the folder. Its import finds the documented config, not itself, because the process of
# the tests has imported the documented configs already.
CONFIG_TEMPLATE = """from configs.{0} import get_config as documented
from tests.stand_in import shrink

def get_config():
    return shrink(documented())
"""
# A fake of transformers, which is not installed: it checks that `export` wrote the files that the real one needs.
TRANSFORMERS = """from pathlib import Path

class AutoModelForMaskedLM:
    def from_pretrained(folder):
        assert {"config.json", "model.safetensors", "vocab.txt"} <= {path.name for path in Path(folder).iterdir()}

AutoTokenizer = AutoModelForMaskedLM
"""


def shrink(c: ConfigDict) -> ConfigDict:
    """Changes a documented config to a tiny model, local texts and a short run, but the same folders; returns it."""
    if "tasks" in c:
        c.update(tasks=("rte",), seeds=1, epochs=1)
        return c
    if "arms" in c:
        shrink(c.base)
        c.seeds, c.learning_rates = 1, ()
        c.arms = c.arms[:1]  # tests/study trains several
        return c
    c.model.update(layers=1, dim=16, heads=2, mlp_dim=16, length=32, vocab_size=512, unroll=1, dtype="float32")
    # without dropout, all configs with the same attention compile to the same program
    c.model.update(dropout=0.0, attention_dropout=0.0)
    c.optim.learning_rate, c.mesh.fsdp = 1e-3, False
    c.data.update(batch_size=4, validation_fraction=0.2)
    if any(source.startswith("python-docs") for source in c.data.sources):
        c.data.sources = ("jsonl:wiki/*.jsonl.gz",)
    if c.data.vocab.startswith(("hf:", "runs/")):
        c.data.vocab = "vocab.txt"
    if c.data.dir != "data/tiny":  # tiny.py keeps its schedule, because docs/configuration.md shows its output
        c.optim.warmup_steps = 1
        c.train.update(steps=4, log_every=2, validate_every=4, validate_batches=1, checkpoint_every=4)
        c.optim.decay_steps = min(c.optim.decay_steps, 2)
        c.train.phases, c.data.batch_warmup, c.data.batch_warmup_steps = (), (), 0  # of later steps
    return c


def write(folder: Path) -> None:
    """Fills `folder`. The caller has set TFDS_DATA_DIR to its subfolder `tfds`."""
    words = ["".join(syllables) for syllables in itertools.product(("ka", "to", "mi", "su"), repeat=4)]
    rng = random.Random(0)
    texts = [" ".join(rng.choices(words, k=50)) for _ in range(80)]
    for name in ("wiki", "books", "configs", "glue/RTE"):
        (folder / name).mkdir(parents=True)
    for part in range(2):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts[part::4])
        (folder / f"wiki/wiki-00{part}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    for number, text in enumerate(texts[2::4]):
        (folder / f"books/{number}.txt").write_text(text)
    letters = "abcdefghijklmnopqrstuvwxyz-."
    vocabulary = dict.fromkeys(
        [*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *filter(str.isalpha, words)]
    )
    for name in ("vocab.txt", "bert-base-uncased-vocab.txt"):
        (folder / name).write_text("\n".join(vocabulary))
    header, classes = "index\tsentence1\tsentence2\tlabel", TASKS["rte"].classes
    pairs = [(" ".join(text.split()[:4]), " ".join(text.split()[4:8])) for text in texts[:32]]  # all of the same length
    rows = [f"{i}\t{first}\t{second}\t{classes[i % 2]}" for i, (first, second) in enumerate(pairs)]
    for name in ("train", "dev"):
        (folder / f"glue/RTE/{name}.tsv").write_text("\n".join([header, *rows]))
    for name in CONFIG_NAMES:
        (folder / f"configs/{name}.py").write_text(CONFIG_TEMPLATE.format(name))
    (folder / "transformers.py").write_text(TRANSFORMERS)
    # The books, as a TFDS dataset, take the place of TFDS's Wikipedia.
    shutil.copytree(bookcorpus.build(folder / "books"), folder / "tfds/wikipedia/20230601.en/1.0.0")
