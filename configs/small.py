"""python -m symbert_jax pretrain --config=configs/small.py --workdir=runs/small --config.model.attention=pairwise

The paper's recipe for BERT-small (4 layers of 512) to the letter; all else as base.py.
"""

from ml_collections import ConfigDict

from configs.base import get_config as base


def get_config() -> ConfigDict:
    c = base()
    c.model.update(layers=4, dim=512, heads=8, mlp_dim=2048)
    return c
