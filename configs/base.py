"""python -m symbert_jax pretrain --config=configs/base.py --workdir=runs/pairwise --config.model.attention=pairwise

The paper's recipe for BERT-base to the letter (its section 4 and shell scripts): 200,000 steps of 256 rows of
512 tokens, AdamW at 1e-4, warmup 10,000, dropout 0.1, 15% dynamic masking, no NSP, bert-base-uncased words.
Every value is a default of symbert_jax/config.py; what differs is the corpus, which here is the user's. To prepare it:

    python -m symbert_jax prepare --config=configs/base.py \
      --config.data.sources='jsonl:wiki/*.jsonl.gz,bookcorpus:books'

Model FLOPs of the run: standard 1.54e19, symmetric 1.43e19, pairwise 1.44e19. What a step takes on TPUs, by their
compiler's estimate: docs/performance.md.
The paper's validation loss after 200,000 steps: standard 1.684, symmetric 1.788, pairwise 1.680.
Its GLUE mean: standard 78.74, pairwise 79.36.
"""

from ml_collections import ConfigDict

from symbert_jax import config


def get_config() -> ConfigDict:
    c = config.default()
    c.data.dir = "data/corpus_512"
    c.train.keep_every = 10_000
    # How it is computed, not what (docs/performance.md): the optimizer's work is shared out, no loop over layers, whose
    # compilation takes minutes once; --config.model.unroll=1 compiles in about one, of a slower step.
    c.mesh.fsdp = True
    c.model.unroll = 0
    return c
