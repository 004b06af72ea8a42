"""A fine-tuned model on disk: `params`, the tokenizer, and a description, `model.json`, which is written last."""

import dataclasses
import json
from typing import NamedTuple

from etils import epath

from symbert_jax import checkpoint
from symbert_jax.config import Config, ModelConfig, check, from_dict
from symbert_jax.data.tokenizer import read as read_tokenizer
from symbert_jax.data.tokenizer import write as write_tokenizer
from symbert_jax.distributed import is_main_process
from symbert_jax.errors import UserError
from symbert_jax.eval.tasks import TASKS
from symbert_jax.model.tree import Params
from symbert_jax.storage import read_json, write_whole

PARAMS, DESCRIPTION = "params", "model.json"


class SavedModel(NamedTuple):
    """The content of `model.json`."""

    score: float  # `TrialResult.score`
    task: str
    model: ModelConfig
    trial: str  # `Trial.key`
    length: int = 128  # tokens to which texts are truncated; earlier versions did not write it


def is_saved(folder: epath.Path) -> bool:
    """Whether a folder holds a fine-tuned model."""
    return (folder / DESCRIPTION).exists()


def read_description(folder: epath.Path) -> SavedModel:
    """Returns the content of `model.json`.

    Raises:
      UserError: the file is missing or damaged.
    """
    file = folder / DESCRIPTION
    match SavedModel._field_defaults | read_json(file, "checkpoint"):
        case {
            "score": float(score),
            "task": str(task),
            "model": fields,
            "trial": str(trial),
            "length": int(length),
            **rest,
        } if not rest and abs(score) <= 100 and task in TASKS and length >= 8:
            pass
        case content:
            wanted = f"{', '.join(SavedModel._fields)} of a saved model"
            raise UserError("checkpoint", f"{file}: {str(content)[:100]}", wanted)
    try:
        model = from_dict({"model": fields}).model
        check(Config(model=model))
    except UserError as error:
        raise UserError("checkpoint", f"{file}: {error}", "the model that was trained") from None
    return SavedModel(score, task, model, trial, length)


def read_params(folder: epath.Path) -> Params:
    """Returns the parameters as numpy arrays; `head` holds the classifier. Call on all processes.

    Raises:
      UserError: the parameters are missing or damaged.
    """
    return checkpoint.read_params(folder / PARAMS)


def write(folder: epath.Path, description: SavedModel, params: Params, tokenizer: epath.Path) -> None:
    """Writes a model over an older one, if there is any. Call on all processes.

    tokenizer: the path of the model's tokenizer, for `tokenizer.read`.
    """
    is_main = is_main_process()
    folder.mkdir(parents=True, exist_ok=True)
    if is_main:
        (folder / DESCRIPTION).unlink(missing_ok=True)  # first: a kill must not leave it beside other parameters
    checkpoint.write_params(folder / PARAMS, params)
    if is_main:
        write_tokenizer(read_tokenizer(tokenizer), folder)
        content = description._asdict() | {"model": dataclasses.asdict(description.model)}
        write_whole(folder / DESCRIPTION, json.dumps(content, indent=2) + "\n")
