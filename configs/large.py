"""python -m symbert_jax pretrain --config=configs/large.py --workdir=runs/large --config.model.attention=pairwise

BERT-large (24 layers of 1024; Devlin et al., 2018) by the paper's recipe for BERT-base; the backward pass
computes each layer again, which in a loop over layers takes less time than to keep what it made, and a third of the
memory (docs/performance.md). Never run by its authors: no expected score. docs/slices.md says what the TPU compiler
makes of it.
"""

from ml_collections import ConfigDict

from configs.base import get_config as base


def get_config() -> ConfigDict:
    c = base()
    c.model.update(layers=24, dim=1024, heads=16, mlp_dim=4096, remat="full", unroll=1)
    return c
