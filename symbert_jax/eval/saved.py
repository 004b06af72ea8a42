"""A fine-tuned model on disk: `params`, `vocab.txt`, and `model.json`, which describes it and is written last."""

import dataclasses
import json
from typing import NamedTuple

from etils import epath

from symbert_jax.checkpoint import read_params, write_params
from symbert_jax.config import Config, ModelConfig, check, from_dict
from symbert_jax.data import tokenizer
from symbert_jax.data.vocabulary import VOCAB
from symbert_jax.errors import UserError
from symbert_jax.eval.tasks import TASKS
from symbert_jax.model.tree import Params
from symbert_jax.storage import read_json, write_whole

PARAMS, FACTS = "params", "model.json"


class Saved(NamedTuple):
    score: float  # on the validation split, 0 to 100
    task: str
    model: ModelConfig
    trial: str  # its key
    length: int = 128  # tokens that longer texts were cut to; earlier versions do not record it


def is_saved(folder: epath.Path) -> bool:
    return (folder / FACTS).exists()


def describe(folder: epath.Path) -> Saved:
    """The content of `model.json`.

    Raises:
      UserError: the file is missing or damaged.
    """
    file = folder / FACTS
    match Saved._field_defaults | read_json(file, "checkpoint"):
        case {
            "score": float(score),
            "task": str(task),
            "model": fields,
            "trial": str(trial),
            "length": int(length),
            **rest,
        } if not rest and abs(score) <= 100 and task in TASKS and length >= 8:
            pass
        case facts:
            raise UserError("checkpoint", f"{file}: {str(facts)[:100]}", f"{', '.join(Saved._fields)} of a saved model")
    try:
        model = from_dict({"model": fields}).model
        check(Config(model=model))
    except UserError as error:
        raise UserError("checkpoint", f"{file}: {error}", "the model that was trained") from None
    return Saved(score, task, model, trial, length)


def read(folder: epath.Path) -> Params:
    """The parameters as numpy arrays, the head under `head`. Every process takes part.

    Raises:
      UserError: they are missing or damaged.
    """
    return read_params(folder / PARAMS)


def write(folder: epath.Path, saved: Saved, params: Params, vocabulary: epath.Path, first: bool) -> None:
    """Every process takes part in the parameters; the `first` of them writes the rest."""
    folder.mkdir(parents=True, exist_ok=True)
    if first:
        (folder / FACTS).unlink(missing_ok=True)  # it describes the old parameters
    write_params(folder / PARAMS, params)
    if first:
        tokenizer.write(tokenizer.read(vocabulary), folder / VOCAB)
        facts = saved._asdict() | {"model": dataclasses.asdict(saved.model)}
        write_whole(folder / FACTS, json.dumps(facts, indent=2) + "\n")
