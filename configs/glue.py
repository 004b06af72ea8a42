"""python -m symbert_jax finetune --config=configs/glue.py --workdir=runs/glue/pairwise \
    --config.checkpoint=runs/pairwise --config.glue.source=tsv:glue

Time: 2 hours for BERT-base on one TPU v5e, from its 5e17 FLOPs at 40% MFU; not measured.
Result: in the paper, a GLUE mean of 78.74 (standard) and 79.36 (pairwise) for BERT-base after 200,000 steps.

The paper's protocol on all GLUE tasks: 5 epochs at 1e-5, 10% warmup, batches of 16, length 128, 5 seeds; the last
epoch is scored. The folder `glue` holds the standard folders: CoLA/train.tsv, SST-2/dev.tsv and so on.
"""

from ml_collections import ConfigDict

from symbert_jax import config


def get_config() -> ConfigDict:
    return config.default_finetune()
