"""The only door to Orbax. Checkpoint s holds the state after s updates, as items `params` and `optimizer`.

Knows trees and steps, not models. A workdir keeps its checkpoints in `checkpoints/<step>/`; each carries
the config that made it, so that `load` needs nothing else.

Orbax stores no checksum of array values, and takes any folder with a number for a checkpoint. So every checkpoint gets
an index of its files (name, bytes, SHA-256) before Orbax commits it with a rename, and is checked against it before it
counts. In a bucket the index holds sizes alone: Cloud Storage keeps a checksum of each object itself. A checkpoint
without an index, from before there was one, is whole as far as its metadata can be read.

A checkpoint that is no longer kept is renamed to `checkpoints/deleted/` before its files go, so that a kill leaves no
half of one. In a bucket, which cannot rename, a kill may leave half; the index shows it.

To read in this order: `steps`, the checkpoints of a run; `index`, which tells whole ones from damaged ones; `params`,
parameters alone.
"""

from symbert_jax.checkpoint.index import check_path
from symbert_jax.checkpoint.params import digest, read_params, write_params
from symbert_jax.checkpoint.steps import FOLDER, LOSS, Checkpoints, load, require_step

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
