"""python -m symbert_jax pretrain --config=configs/base.py --workdir=runs/pairwise --config.model.attention=pairwise

Time: 2.5 hours on 16 TPU v5e, by the TPU compiler's estimate; not measured.
Result: in the paper, a validation loss of 1.684 (standard), 1.788 (symmetric) and 1.680 (pairwise), and a GLUE mean of
78.74 (standard) and 79.36 (pairwise).

Exactly the paper's recipe for BERT-base (its section 4 and shell scripts): 200,000 steps of 256 rows of
512 tokens, AdamW at 1e-4, 10,000 steps of warmup, dropout 0.1, 15% dynamic masking, no NSP, the vocabulary of
bert-base-uncased. All of these are the defaults of symbert_jax/config/schema.py. Only the corpus, which you prepare, is
not exactly the paper's:

    python -m symbert_jax prepare --config=configs/base.py \
      --config.data.sources='jsonl:wiki/*.jsonl.gz,bookcorpus:books'

Model FLOPs of the run: standard 1.54e19, symmetric 1.43e19, pairwise 1.44e19.
"""

from ml_collections import ConfigDict

from symbert_jax import config


def get_config() -> ConfigDict:
    c = config.default()
    c.data.dir = "data/corpus_512"
    c.train.keep_every = 10_000
    # The next two fields make the same computation faster (docs/performance.md): the optimizer's work is split over
    # devices, and the layers are unrolled. The first start compiles for minutes; with --config.model.unroll=1 it
    # compiles for one minute, but steps are slower.
    c.mesh.fsdp = True
    c.model.unroll = 0
    return c
