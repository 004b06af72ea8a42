"""Parameters alone, as `finetune` keeps them, and their digest."""

import hashlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from symbert_jax.checkpoint.index import check_path, find_damage, one_line, write_index
from symbert_jax.errors import UserError
from symbert_jax.storage import bucket_errors_as_user_errors, is_bucket


def write_params(folder: epath.Path, params: Any) -> None:
    """Writes parameters to `folder`, whole or not at all; every process takes part.

    Raises:
      UserError: they cannot be written.
    """
    check_path(folder, "workdir")
    new = folder if is_bucket(folder) else folder.with_name(folder.name + ocp.utils.TMP_DIR_SUFFIX)
    options = ocp.AsyncOptions(post_finalization_callback=lambda: write_index(new, ("",)))
    with bucket_errors_as_user_errors("checkpoint", folder, "a bucket that can be written"):
        try:
            with ocp.StandardCheckpointer(async_options=options) as checkpointer:
                checkpointer.save(folder, params, force=True)
        except Exception as error:
            if is_bucket(folder):
                raise
            found = f"{folder} not saved: {one_line(error)}"
            raise UserError("checkpoint", found, "a disk with room that can be written") from error


def read_params(folder: epath.Path) -> Any:
    """Returns what `write_params` wrote, as numpy arrays; every process takes part.

    Raises:
      UserError: the folder is damaged.
    """
    check_path(folder, "checkpoint")
    with bucket_errors_as_user_errors("checkpoint", folder, "a bucket that can be read"):
        damage = find_damage(folder, ("",), contents=("",)) if jax.process_index() == 0 else ""
        if not damage:
            try:
                with ocp.StandardCheckpointer() as checkpointer:
                    shapes = dict(checkpointer.metadata(folder).item_metadata)
                    target = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), shapes)
                    return checkpointer.restore(folder, target)
            except Exception as error:
                if is_bucket(folder):
                    raise
                damage = one_line(error)
        raise UserError("checkpoint", f"{folder} damaged: {damage}", "whole parameters", "run the same finetune again")


def digest(params: Any) -> str:
    """Returns the SHA-256 of the names and values of all arrays."""
    found = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(params):
        found.update(name_of(path).encode())
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()


def name_of(path: tuple[Any, ...]) -> str:
    """Returns a path of `jax.tree` as text: keys alone, as Orbax restores namedtuples and tuples as mappings."""
    return ".".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", None)))) for key in path)
