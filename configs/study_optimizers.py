"""python -m symbert_jax study --config=configs/study_optimizers.py --workdir=runs/study_optimizers \
    --config.base.data.sources='jsonl:wiki/*.jsonl.gz,bookcorpus:books'

Time: an hour on 2 cores for 30 runs.
Result: docs/modern.md.

AdamW, StableAdamW and Muon at three learning rates each, for the modern encoder of study_modern.py with standard
attention, and AdamW for symmetric and pairwise attention.
"""

from ml_collections import ConfigDict

from symbert_jax import config


def get_config() -> ConfigDict:
    c = config.get_config("study_modern")
    c.base.model.update(norm="pre", positions="rope", mlp="geglu", mlp_dim=168, bias=False, window=32, global_every=3)
    c.learning_rates = (1e-3, 2e-3, 4e-3)
    c.arms = (
        "adamw",
        "stable_adamw: optim.name=stable_adamw optim.clip=0.0",
        "muon: optim.name=muon",
        "adamw_symmetric: model.attention=symmetric",
        "adamw_pairwise: model.attention=pairwise",
    )
    c.reference = "adamw"
    return c
