"""python -m symbert_jax study --config=configs/study_gpu.py --workdir=runs/study_gpu

Time: not measured alone; bench/gpu_study.sh stops it at a limit.
Result: not run with this learning rate. At 1e-3 with 32 rows a step, standard attention had not left its plateau after
1,900 steps, and pairwise attention stayed 0.6 nats above it.

BERT-small (4 layers of 512) on rows of 128 tokens of Wikipedia and books, with a vocabulary of 8,192 tokens; the three
seeds of an arm train side by side. 8 = sqrt(64) is the gain of the paper's pairwise attention with heads of
width 64. The first arms are those that the others are compared with.
"""

from ml_collections import ConfigDict

from symbert_jax import config


def get_config() -> ConfigDict:
    c = config.default_study()
    c.base = config.get_config("mini")
    c.base.model.update(dim=512, heads=8, mlp_dim=2048, vocab_size=8192, dtype="bfloat16", kernel="xla")
    c.base.data.update(dir="data/study_gpu", sources=("jsonl:wiki/*.jsonl.gz", "bookcorpus:books"))
    c.base.data.update(vocab="train", batch_size=64)
    c.base.optim.update(warmup_steps=200)
    c.learning_rates = (5e-4,)
    c.base.train.update(steps=4_000, log_every=100, validate_every=100, checkpoint_every=4_000, keep_latest=1)
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
