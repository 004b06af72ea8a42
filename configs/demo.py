"""make demo

python_docs.py, cut short: 200 steps for each attention, the whole demo within 10 minutes on 2 cores.
"""

from ml_collections import ConfigDict

from configs.python_docs import get_config as python_docs


def get_config() -> ConfigDict:
    c = python_docs()
    c.train.update(steps=200, log_every=20, validate_every=20, checkpoint_every=100)
    return c
