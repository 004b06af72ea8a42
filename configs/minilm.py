"""python -m symbert_jax pretrain --config=configs/minilm.py --workdir=runs/minilm/pairwise \
    --config.init_from=runs/encoder/pairwise --config.model.attention=pairwise

Time: about 50 minutes on 2 cores, by the speed of demo_bert.py.
Result: a validation loss of 4.02 (standard), 4.22 (pairwise) and 4.49 (symmetric), on an H200.

Continues all-MiniLM-L6-v2 (6 layers of width 384, the vocabulary of bert-base-uncased), which `import` has read, on
Wikipedia and books: 2,000 steps of 16 rows of 128 tokens. The encoder comes without a head that predicts tokens, so it
needs a higher learning rate than a finished BERT. The parameters of the encoder have left their plateau long ago; the
three attentions differ in what the conversion has changed.

Prepare the corpus first:

    python -m symbert_jax prepare --config=configs/minilm.py \
      --config.data.sources='jsonl:wiki/*.jsonl.gz,bookcorpus:books'
"""

from ml_collections import ConfigDict

from symbert_jax import config


def get_config() -> ConfigDict:
    c = config.default()
    c.model.update(layers=6, dim=384, heads=12, mlp_dim=1536, length=128, unroll=6, dtype="float32")
    c.model.update(dropout=0.0, attention_dropout=0.0)
    c.data.update(dir="data/wiki_books_minilm", vocab="runs/encoder/standard", validation_fraction=0.01, batch_size=16)
    c.optim.update(learning_rate=3e-4, warmup_steps=100)
    c.train.update(steps=2_000, log_every=50, validate_every=100, validate_batches=16, checkpoint_every=500)
    c.init_from = "runs/encoder/standard"
    return c
