"""python -m symbert_jax pretrain --config=configs/large.py --workdir=runs/large --config.model.attention=pairwise

BERT-large (24 layers of 1024; Devlin et al., 2018) by the paper's recipe for BERT-base; what a matrix product made
is kept for the backward pass and the rest computed again, or 16 rows a chip would not fit a TPU v5e. Never run by its
authors: no expected score. docs/slices.md says what the TPU compiler makes of it.
"""

from ml_collections import ConfigDict

from configs.base import get_config as base


def get_config() -> ConfigDict:
    c = base()
    c.model.update(layers=24, dim=1024, heads=16, mlp_dim=4096, remat="dots", unroll=1)
    return c
