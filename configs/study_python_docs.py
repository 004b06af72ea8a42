"""python -m symbert_jax study --config=configs/study_python_docs.py --workdir=runs/study_python_docs

Time: 6 hours on 2 cores for 78 runs, by the speed of demo.py.
Result: symmetric_gain is the best at both rates; a symmetric start does most of what symmetry does (docs/study.md).

Forms of attention and initial values on text that every machine has: the model and the corpus of demo.py, thirteen
arms, each with the same two learning rates and three seeds. `gain` is the standard deviation of the first logits as a
multiple of that of standard attention; 5.66 = sqrt(32) is that of the paper's pairwise attention with heads of width
32. The corpus is prepared if it is missing.
"""

from ml_collections import ConfigDict

from symbert_jax import config


def get_config() -> ConfigDict:
    c = config.default_study()
    c.base = config.get_config("demo")
    c.base.train.update(checkpoint_every=1_000, keep_latest=1)
    c.learning_rates = (1e-3, 2e-3)
    c.arms = (
        "standard",
        "standard_gain: model.score_gain=5.66",
        "standard_shared_start: model.key_init=query",
        "symmetric: model.attention=symmetric",
        "symmetric_gain: model.attention=symmetric model.score_gain=5.66",
        "pairwise_normal: model.attention=pairwise",
        "uniform: model.attention=uniform",
        "pairwise_unit: model.attention=pairwise model.pairwise_init=unit",
        "pairwise_identity: model.attention=pairwise model.pairwise_init=identity",
        "pairwise_diagonal: model.attention=pairwise model.pairwise_form=diagonal",
        "identity_query: model.query=identity model.score_gain=1",
        "half_width_keys: model.key_dim=16",
        "symmetric_low_rank: model.attention=pairwise model.pairwise_form=low_rank model.pairwise_rank=4",
    )
    return c
