"""A fine-tuned model on disk: `params`, `vocab.txt`, and `model.json`, which says what it is and comes last."""

import dataclasses
import json
from typing import Any, NamedTuple

from etils import epath

from symbert_jax.checkpoint import read_params, write_params
from symbert_jax.config import Model, from_dict
from symbert_jax.data import tokenizer
from symbert_jax.data.rows import VOCAB
from symbert_jax.data.tasks import TASKS
from symbert_jax.errors import UserError
from symbert_jax.model.tree import Params
from symbert_jax.storage import read_json, write_whole

PARAMS, FACTS = "params", "model.json"


class Saved(NamedTuple):
    score: float  # on the validation split, 0 to 100
    task: str
    model: Model
    trial: str  # its key


def is_saved(folder: epath.Path) -> bool:
    return (folder / FACTS).exists()


def describe(folder: epath.Path) -> Saved:
    """Raises `UserError` where its model.json is damaged."""
    facts: dict[str, Any] = read_json(folder / FACTS, "checkpoint")
    try:
        found = Saved(**facts | {"model": from_dict({"model": facts["model"]}).model})
        if found.task not in TASKS or not isinstance(found.score, int | float):
            raise TypeError(f"task {found.task!r}, score {found.score!r}")
    except (KeyError, TypeError, AttributeError) as error:
        found_text = f"{folder / FACTS}: {type(error).__name__}: {error}"
        raise UserError("checkpoint", found_text, "what `finetune` wrote") from None
    return found


def read(folder: epath.Path) -> Params:
    """The parameters as numpy arrays, the head under `head`."""
    return read_params(folder / PARAMS)


def write(folder: epath.Path, saved: Saved, params: Params, vocabulary: epath.Path, first: bool) -> None:
    """Every process takes part in the parameters; the `first` of them writes the rest."""
    folder.mkdir(parents=True, exist_ok=True)
    if first:
        (folder / FACTS).unlink(missing_ok=True)  # or what is said there of the old parameters outlives them
    write_params(folder / PARAMS, params)
    if first:
        tokenizer.write(tokenizer.read(vocabulary), folder / VOCAB)
        facts = saved._asdict() | {"model": dataclasses.asdict(saved.model)}
        write_whole(folder / FACTS, json.dumps(facts, indent=2) + "\n")
