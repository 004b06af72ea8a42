"""python -m symbert_jax pretrain --config=configs/modern_base.py --workdir=runs/modern

Time: 4.2 hours on 16 TPU v5e, by the TPU compiler's estimate; not measured.
Result: unknown; not run at full size.

The architecture of ModernBERT-base (Warner et al., 2024) with pairwise attention: 22 layers of width 768, pre-norm,
rotary positions, GEGLU, no biases, every third layer global and the others with a window of 128 tokens. P starts small,
which is better in an encoder with rotary positions (docs/study.md). The recipe is ModernBERT's, too, but for its
batches of millions of tokens: 30% masking, StableAdamW, a constant learning rate that decays at the end as 1 - sqrt(x),
batches that grow to 131,072 tokens, rows of 1,024 tokens and for the decay of 8,192.
`export` writes a stock ModernBERT.

Prepare the corpora of both row lengths first:

    python -m symbert_jax prepare --config=configs/modern_base.py \
      --config.data.sources='jsonl:wiki/*.jsonl.gz,bookcorpus:books'
"""

from ml_collections import ConfigDict

from symbert_jax import config


def get_config() -> ConfigDict:
    c = config.default()
    c.model.update(layers=22, dim=768, heads=12, mlp_dim=1152, length=8192, vocab_size=50368)
    c.model.update(attention="pairwise", pairwise_init="unit")
    c.model.update(norm="pre", norm_eps=1e-5, mlp="geglu", bias=False, dropout=0.0, attention_dropout=0.0)
    c.model.update(positions="rope", rope_theta=160_000.0, rope_theta_local=10_000.0, window=128, global_every=3)
    c.data.update(dir="data/corpus_8192", vocab="hf:answerdotai/ModernBERT-base", batch_size=16, mask_rate=0.3)
    c.data.update(batch_warmup=(32, 64, 96), batch_warmup_steps=6_000)
    c.optim.update(name="stable_adamw", learning_rate=5e-4, warmup_steps=2_000, clip=0.0)
    c.optim.update(b1=0.9, b2=0.98, eps=1e-6, weight_decay=1e-5)
    c.optim.update(schedule="wsd", decay_steps=20_000, decay_shape="sqrt")
    c.train.update(steps=200_000, keep_every=10_000)
    c.train.phases = ("180000: model.length=1024 data.dir=data/corpus_1024 data.batch_size=128",)
    # As in base.py; with --config.model.unroll=1 compilation is faster, but a step takes 1.6 times as long.
    c.mesh.fsdp = True
    c.model.unroll = 0
    return c
