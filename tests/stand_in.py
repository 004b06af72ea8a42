"""A folder that stands for the user's when documented commands run: texts, books, GLUE's TSVs, a vocabulary, and the
documented configs cut to a size at which a step takes no time."""

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

CONFIGS = [path.stem for path in (ROOT / "configs").glob("*.py")]
CONFIG = """from configs.{0} import get_config as documented
from tests.stand_in import shrink

def get_config():
    return shrink(documented())
"""
# A fake of the package, which is not installed here: it checks that `export` wrote what the real one needs.
TRANSFORMERS = """from pathlib import Path

class AutoModelForMaskedLM:
    def from_pretrained(folder):
        assert {"config.json", "model.safetensors", "vocab.txt"} <= {path.name for path in Path(folder).iterdir()}

AutoTokenizer = AutoModelForMaskedLM
"""


def shrink(c: ConfigDict) -> ConfigDict:
    """Changes a documented config to a tiny model, local texts and a short run; keeps its folders. Returns it."""
    if "tasks" in c:
        c.update(tasks=("rte",), seeds=1, epochs=1)
        return c
    c.model.update(layers=1, dim=16, heads=2, mlp_dim=16, length=32, vocab_size=512, unroll=1, dtype="float32")
    c.model.update(dropout=0.0, attention_dropout=0.0)  # so that all of one attention are one program
    c.optim.learning_rate, c.mesh.fsdp = 1e-3, False
    c.data.update(batch_size=4, validation_fraction=0.2)
    if any(source.startswith("python-docs") for source in c.data.sources):
        c.data.sources = ("jsonl:wiki/*.jsonl.gz",)
    if c.data.vocab.startswith("hf:"):
        c.data.vocab = "vocab.txt"
    if c.data.dir != "data/tiny":  # tiny.py has few steps, which README.md shows
        c.optim.warmup_steps = 1
        c.train.update(steps=4, log_every=2, validate_every=4, validate_batches=1, checkpoint_every=4)
    return c


def write(folder: Path) -> None:
    """Fills `folder`. Its `tfds` is the data directory of TFDS."""
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
    pairs = [(" ".join(text.split()[:4]), " ".join(text.split()[4:8])) for text in texts[:32]]  # all of one length
    rows = [f"{i}\t{first}\t{second}\t{classes[i % 2]}" for i, (first, second) in enumerate(pairs)]
    for name in ("train", "dev"):
        (folder / f"glue/RTE/{name}.tsv").write_text("\n".join([header, *rows]))
    for name in CONFIGS:
        (folder / f"configs/{name}.py").write_text(CONFIG.format(name))
    (folder / "transformers.py").write_text(TRANSFORMERS)
    # any TFDS dataset of texts stands for its Wikipedia
    shutil.copytree(bookcorpus.build(folder / "books"), folder / "tfds/wikipedia/20230601.en/1.0.0")
