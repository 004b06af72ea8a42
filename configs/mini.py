"""python -m symbert_jax pretrain --config=configs/mini.py --workdir=runs/mini

Time: a quarter of an hour on 2 cores.
Result: a validation loss of 6.8: the model has learned word frequencies and a little more.

BERT-mini (4 layers of width 256; Turc et al., 2019) on rows of 128 tokens: a first run on real text for a machine
without an accelerator. Its 1,000 steps of 16 rows are less than one epoch, so it needs no dropout.

Prepare the corpus first, from any JSON lines with a field `text` and any directory of books:

    python -m symbert_jax prepare --config=configs/mini.py \
      --config.data.sources='jsonl:wiki/*.jsonl.gz,bookcorpus:books' --config.data.vocab=vocab.txt
"""

from ml_collections import ConfigDict

from symbert_jax import config


def get_config() -> ConfigDict:
    c = config.default()
    c.model.update(layers=4, dim=256, heads=4, mlp_dim=1024, length=128, unroll=4, dtype="float32")
    c.model.update(dropout=0.0, attention_dropout=0.0)
    c.data.update(dir="data/wiki_books_128", validation_fraction=0.01, batch_size=16)
    c.optim.update(learning_rate=1e-3, warmup_steps=100)
    c.train.update(steps=1_000, log_every=20, validate_every=50, validate_batches=16, checkpoint_every=250)
    return c
