"""python -m symbert_jax study --config=configs/study_gpu.py --workdir=runs/study_gpu

Time: not measured alone; bench/gpu_study.sh stops it at a limit.
Result: not run with this learning rate. At 1e-3 with 32 rows a step, standard attention had not left its plateau after
1,900 steps, and pairwise attention stayed 0.6 nats above it.

BERT-small (4 layers of 512) on rows of 128 tokens of Wikipedia and books, with the vocabulary of study_wiki_books.py;
the three seeds of an arm train side by side. 8 = sqrt(64) is the gain of the paper's pairwise attention with heads of
width 64. The first arms are those that the others are compared with.
"""

from ml_collections import ConfigDict

from symbert_jax import config


def get_config() -> ConfigDict:
    c = config.get_config("study_wiki_books")
    c.base.model.update(layers=4, dim=512, heads=8, mlp_dim=2048, dtype="bfloat16", kernel="xla", unroll=4)
    c.base.model.initializer_range = 0.02
    c.base.data.update(batch_size=64, mask_rate=0.15)
    c.learning_rates = (5e-4,)
    c.base.train.update(steps=4_000, log_every=100, validate_every=100, checkpoint_every=4_000)
    c.arms = (
        "standard",
        "standard_gain: model.score_gain=8",
        "symmetric: model.attention=symmetric",
        "symmetric_gain: model.attention=symmetric model.score_gain=8",
        "pairwise_normal: model.attention=pairwise",
        "uniform: model.attention=uniform",
        "pairwise_unit: model.attention=pairwise model.pairwise_init=unit",
        "standard_shared_start: model.key_init=query",
    )
    return c
