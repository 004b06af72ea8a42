"""python -m symbert_jax pretrain --config=configs/large.py --workdir=runs/large --config.model.attention=pairwise

Time: 16 hours on 16 TPU v5e, by the TPU compiler's estimate (docs/cost.md); not measured.
Result: unknown; not run.

BERT-large (24 layers of width 1024; Devlin et al., 2018) by the paper's recipe for BERT-base. The backward pass
recomputes each layer. In a loop over layers (`unroll=1`), recomputation takes less time than storing the activations,
and a third of the memory (docs/performance.md).
"""

from ml_collections import ConfigDict

from symbert_jax import config


def get_config() -> ConfigDict:
    c = config.get_config("base")
    c.model.update(layers=24, dim=1024, heads=16, mlp_dim=4096, remat="full", unroll=1)
    return c
