"""The only door to Orbax. Checkpoint s holds the state after s updates, as items `params` and `optimizer`.

It knows trees and steps, not models. A workdir keeps its checkpoints in `checkpoints/<step>/`; each holds the config of
its run, so that `load` needs nothing else.

Orbax stores no checksum of array values, and takes any folder with a number for a checkpoint. So every checkpoint gets
an index of its files (name, bytes, SHA-256) before Orbax commits it with a rename, and is compared with that index
before it is used. In a bucket the index holds sizes alone: Cloud Storage keeps a checksum of each object itself. A
checkpoint of an older version has no index and counts as whole if its metadata can be read.

A checkpoint that is no longer kept is moved to `checkpoints/deleted/` before its files are removed, so that a kill
leaves no half of one. In a bucket, which cannot rename, a kill may leave half; the index shows it.

Reading order: `steps`, the checkpoints of a run; `manager`, Orbax's manager of them; `index`, which distinguishes whole
checkpoints from damaged ones; `params`, parameters alone.
"""

from symbert_jax.checkpoint.index import check_path
from symbert_jax.checkpoint.manager import LOSS
from symbert_jax.checkpoint.params import digest, read_params, write_params
from symbert_jax.checkpoint.steps import FOLDER, Checkpoints, load, require_step

__all__ = [
    "FOLDER",
    "LOSS",
    "Checkpoints",
    "check_path",
    "digest",
    "load",
    "read_params",
    "require_step",
    "write_params",
]
