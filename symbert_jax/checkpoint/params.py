"""Parameters without an optimizer or a step: `finetune` keeps the parameters of its best models."""

from typing import Any

import orbax.checkpoint as ocp
from etils import epath

from symbert_jax.checkpoint.index import check_path, find_damage, short_message, write_index
from symbert_jax.checkpoint.trees import empty_arrays
from symbert_jax.distributed import is_main_process, user_errors_on_all_processes
from symbert_jax.errors import UserError
from symbert_jax.storage import bucket_errors_as_user_errors, is_bucket


def write_params(folder: epath.Path, params: Any) -> None:
    """Writes parameters to `folder`, whole or not at all. All processes must call it.

    Raises:
      UserError: the parameters cannot be written.
    """
    check_path(folder, "workdir")
    uncommitted = folder if is_bucket(folder) else folder.with_name(folder.name + ocp.utils.TMP_DIR_SUFFIX)
    options = ocp.AsyncOptions(post_finalization_callback=lambda: write_index(uncommitted, items=("",)))
    with bucket_errors_as_user_errors("checkpoint", folder, "a bucket that can be written"):
        try:
            with ocp.StandardCheckpointer(async_options=options) as checkpointer:
                checkpointer.save(folder, params, force=True)
        except Exception as error:
            if is_bucket(folder):
                raise
            found = f"{folder} not saved: {short_message(error)}"
            raise UserError("checkpoint", found, "a disk with room that can be written") from error


def read_params(folder: epath.Path) -> Any:
    """Returns the parameters that `write_params` wrote, as numpy arrays. All processes must call it.

    Raises:
      UserError: on every process, if the folder is damaged.
    """
    check_path(folder, "checkpoint")
    with bucket_errors_as_user_errors("checkpoint", folder, "a bucket that can be read"):
        with user_errors_on_all_processes():
            if is_main_process() and (damage := find_damage(folder, items=("",), contents=("",))):
                raise _damage_error(folder, damage)
        try:
            with ocp.StandardCheckpointer() as checkpointer:
                shapes = dict(checkpointer.metadata(folder).item_metadata)
                return checkpointer.restore(folder, empty_arrays(shapes))
        except Exception as error:
            if is_bucket(folder):
                raise
            raise _damage_error(folder, short_message(error)) from None


def _damage_error(folder: epath.Path, damage: str) -> UserError:
    return UserError("checkpoint", f"{folder} damaged: {damage}", "whole parameters", "run the same finetune again")
