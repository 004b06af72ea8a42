"""python -m symbert_jax study --config=configs/study_modern.py --workdir=runs/study_modern \
    --config.base.data.sources='jsonl:wiki/*.jsonl.gz,bookcorpus:books'

Time: three quarters of an hour on 2 cores for 22 runs.
Result: docs/modern.md.

Each part of a modern encoder alone and all of them together, with the model of demo.py on Wikipedia and books:
pre-norm, rotary positions, GEGLU with as many parameters as the MLP that it replaces, no biases, and local attention in
two of four layers. Then the three kinds of attention in BERT and in the modern encoder.
"""

from ml_collections import ConfigDict

from symbert_jax import config

MODERN = (
    "model.norm=pre model.positions=rope model.mlp=geglu model.mlp_dim=168 model.bias=false "
    "model.window=32 model.global_every=3"
)


def get_config() -> ConfigDict:
    c = config.default_study()
    c.base = config.get_config("demo")
    c.base.data.update(dir="data/study_modern", sources=())
    c.base.train.update(steps=600, checkpoint_every=300, keep_latest=1)
    c.learning_rates = (1e-3,)
    c.seeds = 2
    c.arms = (
        "bert",
        "bert_symmetric: model.attention=symmetric",
        "bert_pairwise: model.attention=pairwise",
        "pre_norm: model.norm=pre",
        "rope: model.positions=rope",
        "geglu: model.mlp=geglu model.mlp_dim=168",
        "no_bias: model.bias=false",
        "local: model.window=32 model.global_every=3",
        f"modern: {MODERN}",
        f"modern_symmetric: {MODERN} model.attention=symmetric",
        f"modern_pairwise: {MODERN} model.attention=pairwise",
    )
    c.reference = "bert"
    c.plateau = ""
    return c
