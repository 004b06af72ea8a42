"""Saves and restores checkpoints; the only package that imports Orbax.

Checkpoint s holds the state after s updates, as the items `params` and `optimizer`, and `ema` if the run averages its
parameters. A workdir keeps its checkpoints in
`checkpoints/<step>/`; each holds the config of its run, so `load` needs nothing else.

Orbax stores no checksum of array values and takes any folder whose name is a number for a checkpoint. So every
checkpoint gets an index of its files (name, bytes, SHA-256) before Orbax commits it (on a disk, by a rename), and is
compared with that index before it is used. In a bucket the index holds only sizes: Cloud Storage itself keeps a
checksum of each object. A checkpoint of an older version has no index and counts as whole if its metadata can be read.

A checkpoint that is no longer kept is moved to `checkpoints/deleted/` before its files are removed, so a kill leaves no
partial checkpoint. A bucket has no rename, so there a kill may leave one, which the index reveals.

Reading order: `steps`, the checkpoints of a run; `manager`, Orbax's manager of them; `index`, which finds damaged
checkpoints; `params`, parameters without a run; `trees`, names and shapes of arrays.
"""

from symbert_jax.checkpoint.index import EMA, check_path
from symbert_jax.checkpoint.manager import LOSS
from symbert_jax.checkpoint.params import read_params, write_params
from symbert_jax.checkpoint.steps import FOLDER, Checkpoints, load
from symbert_jax.checkpoint.trees import digest

__all__ = [
    "EMA",
    "FOLDER",
    "LOSS",
    "Checkpoints",
    "check_path",
    "digest",
    "load",
    "read_params",
    "write_params",
]
