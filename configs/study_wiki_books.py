"""python -m symbert_jax study --config=configs/study_wiki_books.py --workdir=runs/study_wiki_books \
    --config.base.data.sources='jsonl:wiki/*.jsonl.gz,bookcorpus:books'

Time: an hour and a half on 2 cores for 36 runs.
Result: standard attention and pairwise attention with a small P are the best, docs/study.md.

Standard, symmetric and pairwise attention on Wikipedia and books, each with first logits as large as those of standard
attention and as large as those of the paper's pairwise attention: 5.66 = sqrt(32) times as large, with heads of width
32. The model is that of demo.py with rotary positions, because with BERT's it is on the plateau for longer than 2
cores can wait. The vocabulary of 4,096 tokens is trained on the corpus, which is prepared if it is missing.
"""

from ml_collections import ConfigDict

from symbert_jax import config


def get_config() -> ConfigDict:
    c = config.default_study()
    c.base = config.get_config("demo")
    c.base.model.positions = "rope"
    c.base.data.update(dir="data/study_wiki_books", sources=())
    c.base.train.update(steps=800, checkpoint_every=800, keep_latest=1)
    c.learning_rates = (1e-3, 2e-3)
    c.arms = (
        "standard",
        "standard_gain: model.score_gain=5.66",
        "symmetric: model.attention=symmetric",
        "symmetric_gain: model.attention=symmetric model.score_gain=5.66",
        "pairwise_normal: model.attention=pairwise",
        "pairwise_unit: model.attention=pairwise model.pairwise_init=unit",
    )
    c.plateau = ""
    return c
