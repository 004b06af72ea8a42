"""python -m symbert_jax study --config=configs/study_wiki_books.py --workdir=runs/study_wiki_books

Time: about 6 hours on 2 cores for 21 runs, estimated from demo.py.
Result: not run yet.

Standard, symmetric and pairwise attention on Wikipedia and books, each with first logits as large as those of standard
attention and as large as those of the paper's pairwise attention: 5.66 = sqrt(32) times as large, with heads of width
32. The vocabulary of 8,192 tokens is trained on the corpus, which is prepared if it is missing, from the folders that
`c.base.data.sources` names.
"""

from ml_collections import ConfigDict

from symbert_jax import config


def get_config() -> ConfigDict:
    c = config.default_study()
    c.base = config.get_config("mini")
    c.base.model.update(layers=4, dim=128, heads=4, mlp_dim=256, vocab_size=8192, unroll=4)
    c.base.model.initializer_range = 0.035  # as in demo.py
    c.base.data.update(dir="data/study_wiki_books", sources=("jsonl:wiki/*.jsonl.gz", "bookcorpus:books"))
    c.base.data.update(vocab="train", batch_size=16, mask_rate=0.2)
    c.base.optim.update(warmup_steps=200)
    c.base.train.update(steps=6_000, log_every=100, validate_every=200, checkpoint_every=1_000, keep_latest=1)
    c.learning_rates = (1e-3,)
    c.arms = (
        "standard",
        "standard_gain: model.score_gain=5.66",
        "symmetric: model.attention=symmetric",
        "symmetric_gain: model.attention=symmetric model.score_gain=5.66",
        "pairwise_normal: model.attention=pairwise",
        "uniform: model.attention=uniform",
        "pairwise_unit: model.attention=pairwise model.pairwise_init=unit",
    )
    return c
