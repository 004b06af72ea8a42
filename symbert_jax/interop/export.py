"""`export`: writes a trained model as a folder that stock `transformers`, or the paper's own code, opens."""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from etils import epath

from symbert_jax import metrics
from symbert_jax.checkpoint import EMA, LOSS, Checkpoints
from symbert_jax.config import Config, MeshConfig, ModelConfig, phases
from symbert_jax.data.tokenizer import read_for_model
from symbert_jax.errors import UserError
from symbert_jax.eval import saved
from symbert_jax.eval.tasks import TASKS
from symbert_jax.interop import folder, tensors
from symbert_jax.interop.architecture import (
    PLPI,
    TITLES,
    check_exportable,
    model_type_of,
    to_config,
    to_model,
    token_ids,
)
from symbert_jax.interop.card import card
from symbert_jax.interop.fold import fold, to_papers_form
from symbert_jax.model import bert, classifier
from symbert_jax.model.tree import Params
from symbert_jax.sharding import make_mesh
from symbert_jax.storage import check_new, new_folder
from symbert_jax.train.events import EMA_LOSS

FORMATS = ("huggingface", "plpi")  # the values of --format
DTYPES = ("float32", "bfloat16")
# Tolerances of a logit, by the type of the weights: (absolute, relative to the largest logit). bfloat16 needs a
# relative tolerance, because it rounds weights to 8 significant bits.
_TOLERANCE = {"float32": (1e-4, 0.0), "bfloat16": (0.0, 0.05)}


class LoadedModel(NamedTuple):
    """A masked-language model or a classifier: the one to export, or the exported one, read back."""

    model: ModelConfig
    params: Params
    classes: Sequence[str] | None  # names of classes; empty for a regression; None for a masked-language model
    facts: dict[str, str]  # rows of the table in the model card: values by titles


def export(
    source: epath.Path, out: epath.Path, step: int | None, format: str, dtype: str, command: str, weights: str = ""
) -> None:
    """Writes the folder `out`, reads it back, and prints by how much its logits differ from those of the trained model.

    source: the workdir of `pretrain` or `import`, or the folder of a model that `finetune` saved.
    step: the step of a checkpoint in a workdir, None for the latest; ignored for a model that `finetune` saved.
    format: one of `FORMATS`.
    dtype: the type of the weights, one of `DTYPES`.
    command: the command line, for the model card.
    weights: ema or raw, as in `Checkpoints.read`; ignored for a model that `finetune` saved.

    Raises:
      UserError: an argument is wrong; there is no such model, or `transformers` has none like it; `out` is not empty or
        lies inside `source`; or the model in `out` computes other logits.
    """
    for field, value, known in (("format", format, FORMATS), ("dtype", dtype, DTYPES)):
        if value not in known:
            raise UserError(field, repr(value), f"one of {', '.join(known)}")
    is_folded = format == "huggingface"
    check_new(out, "out")
    if out == source or source in out.parents:
        raise UserError("out", f"{out}, inside --checkpoint", "a folder elsewhere")
    trained = read(source, step, weights)
    check_exportable(trained.model, format)
    model, params = (fold if is_folded else to_papers_form)(trained.model, trained.params)
    tokenizer = read_for_model(source, model.vocab_size)
    model_type = model_type_of(model) if is_folded else PLPI
    title = TITLES[model_type]
    config = to_config(model, model_type, trained.classes, tokenizer.pad_id, dtype)
    config |= token_ids(model_type, tokenizer.cls_id, tokenizer.sep_id)
    arrays = {name: tensor.astype(dtype) for name, tensor in tensors.to_torch(params).items()}
    is_masked_lm = trained.classes is None
    model_card = card(trained.model, title, trained.facts, is_folded, is_masked_lm, command)
    with new_folder(out, "out") as new:
        folder.write(new, config, arrays, tokenizer, model_card)
        difference = verify(trained, new, dtype)
    print(
        f"{out}: written as {model.attention} {title}, {len(arrays)} tensors; "
        f"its logits differ from the trained model's by at most {difference:.1e}"
    )


def read(source: epath.Path, step: int | None, weights: str = "") -> LoadedModel:
    """Reads the model of a workdir at a step, or a model that `finetune` saved, which has no steps.

    Raises:
      UserError: there is no such model, or it is damaged.
    """
    if saved.is_saved(source):
        description = saved.read_description(source)
        facts = {"task": f"GLUE {description.task}", "score on the validation split": f"{description.score:.1f}"}
        return LoadedModel(description.model, saved.read_params(source), TASKS[description.task].classes, facts)
    with contextlib.closing(Checkpoints(source)) as checkpoints:
        step = checkpoints.check_step(step)
        loss = EMA_LOSS if checkpoints.find_weights(step, weights) == EMA else LOSS
        params, config = checkpoints.read(step, weights)
    losses = [line[loss] for line in metrics.read(source) if line.get("step") == step and loss in line]
    facts = {
        "corpus": ", ".join(config.data.sources) or config.data.dir or "unknown",
        "steps": _steps_text(config, step),
        "validation loss": f"{losses[-1]:.4f} nats" if losses else "not measured at this step",
    }
    return LoadedModel(config.model, params, None, facts)


def _steps_text(config: Config, step: int) -> str:
    """Returns the steps until `step` with their rows, in the phases of the run."""
    parts = []
    for phase in phases(config):
        if count := max(0, min(step, phase.steps.stop) - phase.steps.start):
            batch_size, length = phase.config.data.batch_size, phase.config.model.length
            rows = "rows" if length == config.model.length else f"rows of {length} tokens"
            parts.append(f"{count:,}, each of {batch_size} {rows}")
    return "; ".join(parts) or "0"


def verify(trained: LoadedModel, written: epath.Path, dtype: str) -> float:
    """Returns the largest difference between the logits of the trained model and those of the model in `written`.

    written: the exported folder.
    dtype: the type of its weights, which determines the tolerance.

    Raises:
      UserError: the difference is too large.
    """
    contents = folder.read(written)
    model = to_model(contents.config, str(written))
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        shapes = (
            bert.abstract(model, MeshConfig())
            if trained.classes is None
            else classifier.abstract(model, len(trained.classes) or 1, MeshConfig())
        )
        weights = {name: tensor.astype(np.float32) for name, tensor in contents.tensors.items()}
        exported = trained._replace(model=model, params=tensors.from_torch(weights, shapes, str(written)))
        wanted, found = _compute_logits(trained), _compute_logits(exported)
    difference = float(np.abs(wanted - found).max())
    absolute, relative = _TOLERANCE[dtype]
    limit = absolute + relative * float(np.abs(wanted).max())
    if not difference <= limit:  # also refuses NaN
        hint = f"the folder is kept as {written}"
        found_difference = f"logits that differ by {difference:.1e}"
        raise UserError("export", found_difference, f"a difference of at most {limit:.0e}", hint)
    return difference


def _compute_logits(loaded: LoadedModel) -> np.ndarray:
    """Returns the logits of two random rows, of which one is padded, computed in float32."""
    model = dataclasses.replace(loaded.model, dtype="float32")
    rng, length = np.random.default_rng(0), min(model.length, 64)
    tokens = rng.integers(0, model.vocab_size, (2, length), dtype=np.int32)
    mask = np.arange(length) < np.array([[length], [length // 2]])
    token_types = np.asarray(np.arange(length) >= length // 4, np.int32) * mask
    if loaded.classes is None:
        positions = np.broadcast_to(np.arange(length, dtype=np.int32), tokens.shape)
        compute = jax.jit(bert.logits, static_argnums=0)
        segments = mask.astype(np.int32)
        logits = compute(model, loaded.params, tokens, positions, token_types=token_types, segments=segments)
        return np.asarray(logits)[mask]
    compute = jax.jit(classifier.logits, static_argnums=(0, 1))
    num_outputs = len(loaded.classes) or 1  # a regression has no classes and one output
    return np.asarray(compute(model, num_outputs, loaded.params, tokens, token_types=token_types, mask=mask))
