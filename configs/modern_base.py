"""python -m symbert_jax pretrain --config=configs/modern_base.py --workdir=runs/modern"""

from ml_collections import ConfigDict

from symbert_jax import config


def get_config() -> ConfigDict:
    c = config.default()
    c.model.update(layers=22, dim=768, heads=12, mlp_dim=1152, length=1024, vocab_size=50368, attention="pairwise")
    c.model.update(norm="pre", norm_eps=1e-5, mlp="geglu", bias=False)
    c.model.update(positions="rope", rope_theta=160_000.0, rope_theta_local=10_000.0, window=128, global_every=3)
    c.model.update(dropout=0.0, attention_dropout=0.0)
    c.data.update(dir="data/corpus_1024", batch_size=128, mask_rate=0.3)
    c.mesh.fsdp = True
    return c
