"""make demo-bert

Time: 8 minutes on 2 cores.
Result: a validation loss of 3.95, and words that fit into the blanks of sentences about programs.

The config of minilm.py in small: 500 steps of 8 rows, on the documentation of Python and four of its packages.
"""

from ml_collections import ConfigDict

from symbert_jax import config


def get_config() -> ConfigDict:
    c = config.get_config("minilm")
    c.data.update(dir="data/demo_bert", sources=("python-docs:stdlib+numpy+scipy+sklearn+matplotlib",), batch_size=8)
    c.train.update(steps=500, log_every=50, validate_every=100, checkpoint_every=500)
    return c
