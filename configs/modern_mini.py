"""python -m symbert_jax pretrain --config=configs/modern_mini.py --workdir=runs/modern_mini

Time: about that of mini.py, a quarter of an hour on 2 cores; not measured.
Result: unknown; mini.py, whose corpus and number of steps it has, reaches a validation loss of 6.8.

The architecture of modern_base.py at the size of mini.py, for a machine without an accelerator: 4 layers of width 256,
of which the first and the last are global and two have a window of 32 tokens.
"""

from ml_collections import ConfigDict

from symbert_jax import config


def get_config() -> ConfigDict:
    c = config.get_config("mini")
    c.model.update(norm="pre", norm_eps=1e-5, mlp="geglu", mlp_dim=688, bias=False)
    c.model.update(positions="rope", window=32, global_every=3)
    c.data.mask_rate = 0.3
    return c
