"""python -m symbert_jax pretrain --config=configs/modern_base.py --workdir=runs/modern

Time: 3.6 hours on 16 TPU v5e, by the TPU compiler's estimate; not measured.
Result: unknown; not run at full size.

The architecture of ModernBERT-base (Warner et al., 2024) with pairwise attention: 22 layers of width 768, pre-norm,
rotary positions, GEGLU, no biases, every third layer global and the others with a window of 128 tokens, rows of 1,024
tokens, 30% masking. `export` writes a stock ModernBERT.

Prepare the corpus first:

    python -m symbert_jax prepare --config=configs/modern_base.py \
      --config.data.sources='jsonl:wiki/*.jsonl.gz,bookcorpus:books'
"""

from ml_collections import ConfigDict

from symbert_jax import config


def get_config() -> ConfigDict:
    c = config.default()
    c.model.update(layers=22, dim=768, heads=12, mlp_dim=1152, length=1024, vocab_size=50368, attention="pairwise")
    c.model.update(norm="pre", norm_eps=1e-5, mlp="geglu", bias=False, dropout=0.0, attention_dropout=0.0)
    c.model.update(positions="rope", rope_theta=160_000.0, rope_theta_local=10_000.0, window=128, global_every=3)
    c.data.update(dir="data/corpus_1024", vocab="hf:answerdotai/ModernBERT-base", batch_size=128, mask_rate=0.3)
    c.train.keep_every = 10_000
    # As in base.py; with --config.model.unroll=1 compilation is faster, but steps take 1.6 times as long.
    c.mesh.fsdp = True
    c.model.unroll = 0
    return c
