"""python -m symbert_jax pretrain --config=configs/small.py --workdir=runs/small --config.model.attention=pairwise

Time: 0.9 hours on 16 TPU v5e, by the TPU compiler's estimate; not measured.
Result: in the paper, a validation loss of 2.198 (standard), 2.352 (symmetric) and 2.223 (pairwise), and a GLUE mean of
72.72 (standard) and 73.38 (pairwise).

Exactly the paper's recipe for BERT-small (4 layers of width 512); everything else is as in base.py.
"""

from ml_collections import ConfigDict

from symbert_jax import config


def get_config() -> ConfigDict:
    c = config.get_config("base")
    c.model.update(layers=4, dim=512, heads=8, mlp_dim=2048)
    return c
