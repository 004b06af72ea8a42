"""Exports a few models to folders and records the outputs that this package computes, to compare with transformers.

`python -m tests.interop.ours OUT [WORKDIR ...]` writes the folders, `inputs.npz`, `inputs.json` and `ours.npz` to OUT;
`theirs.py` reads them. The tests compare with the numbers that `theirs.py` recorded in `tests/fixtures/transformers/`.
"""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from etils import epath

import symbert_jax
from symbert_jax.batch import MlmBatch
from symbert_jax.checkpoint import Checkpoints
from symbert_jax.config import ATTENTIONS, Config, DataConfig, MeshConfig, ModelConfig, TrainConfig
from symbert_jax.data import tokenizer
from symbert_jax.eval import saved
from symbert_jax.inference import one_device
from symbert_jax.interop.architecture import AFFINITY
from symbert_jax.interop.export import export
from symbert_jax.interop.import_ import import_
from symbert_jax.model import bert, classifier
from symbert_jax.model.tree import Params
from symbert_jax.train import state as states
from symbert_jax.train.step import mlm_objective

FIXTURES = Path(__file__).parents[1] / "fixtures"
VOCAB = FIXTURES / "transformers" / "vocab.txt"
MODERN = "modern"  # the name of the model of `make_modern`
NUM_CLASSES = 3  # of the classifiers
STEPS, LEARNING_RATE = 10, 0.1  # of gradient descent
# Arguments of `export`: the latest step, for transformers, with all bits.
EXPORT_OPTIONS = {"step": None, "format": "huggingface", "dtype": "float32", "command": "tests"}
TOP = 5  # the number of tokens to predict for each [MASK]
PROMPTS = ("the [MASK] sat on the mat.", "a [MASK] of [MASK], wanted!")
TEXTS = (
    "",
    " \t\r\n\u3000",
    "The cat sat on the mat.",
    "UNWANTED, running!",
    "caf\u00e9 cafe\u0301 \u00c9 \u00df \u0130 \ufb01",
    "\u4e2d\u56fdthe\u4e2d 12 a1",
    "\x00\x07a\u200bb\u00adc\ufffd \u2028",
    "\U0001f44d\U0001f3fd the \u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd",
    "x" * 100 + " " + "x" * 101,
    "\u03a3\u0391\u03a3 don't ... $3.12 -- [MASK] [mask] [CLS]",
)


def import_models(folder: Path) -> dict[str, epath.Path]:
    """Imports the three tiny models of the paper's code; returns their workdirs by attention."""
    workdirs = {attention: epath.Path(folder / f"{attention}.workdir") for attention in ATTENTIONS}
    for attention, workdir in workdirs.items():
        import_(epath.Path(FIXTURES / "plpi" / AFFINITY[attention]), workdir, vocab=str(VOCAB), attention=None, text="")
    return workdirs


def make_modern(folder: Path) -> epath.Path:
    """Writes a workdir with a random model of ModernBERT's architecture with pairwise attention; returns it.

    Its norms and biases are random, too, so that no two of them are equal.
    """
    model = ModelConfig(
        **{"layers": 5, "dim": 32, "heads": 4, "mlp_dim": 24, "length": 32, "vocab_size": 408, "dtype": "float32"},
        **{"norm": "pre", "norm_eps": 1e-5, "positions": "rope", "rope_theta": 160.0, "rope_theta_local": 10.0},
        **{"mlp": "geglu", "bias": False, "window": 6, "attention": "pairwise", "initializer_range": 0.15},
    )
    workdir, config = epath.Path(folder / f"{MODERN}.workdir"), Config(model=model, data=DataConfig(dir=""))
    rng = np.random.default_rng(0)
    with jax.set_mesh(one_device()):
        params = bert.init(model, MeshConfig(), jax.random.key(0))
        state = states.init_from_params(
            config, jax.tree.map(lambda leaf: leaf + np.float32(0.1 * rng.normal(size=leaf.shape)), params)
        )
        checkpoints = Checkpoints(workdir, TrainConfig())
        checkpoints.save(step=0, params=state.params, optimizer=state.optimizer, config=config, validation_loss=None)
        checkpoints.close()
    tokenizer.write(tokenizer.read(FIXTURES / "tokenizers" / "modernbert"), workdir)
    return workdir


def write(out: Path, imported: Mapping[str, epath.Path], trained: Sequence[Path]) -> dict[str, np.ndarray]:
    """Exports the imported models, as masked-language models and as classifiers, and the models in `trained`.

    imported: workdirs by name.
    trained: workdirs of pretrain runs.

    Returns the arrays of `ours.npz`, which it writes to `out` with the inputs.
    """
    out.mkdir(parents=True, exist_ok=True)
    inputs = make_inputs(length=24, vocab_size=120)
    ours: dict[str, np.ndarray] = {}
    for name, workdir in imported.items():
        ours |= run_masked(name, workdir, out, inputs) | run_classifier(name, workdir, out, inputs)
    params, config = symbert_jax.load(imported["standard"])
    ours["sgd/losses"] = run_sgd(config.model, params, inputs)
    trained_by_name = {f"{workdir.parent.name}-{workdir.name}": workdir for workdir in trained}
    for name, workdir in trained_by_name.items():
        ours |= run_masked(name, workdir, out, inputs)
    encode = tokenizer.load(VOCAB, parse_special=True).encode_batch
    ours["tokenizer/ids"] = pad([encoding.ids for encoding in encode(list(TEXTS))])
    np.savez(out / "inputs.npz", **inputs)
    np.savez(out / "ours.npz", **ours)
    settings = {
        "tiny": [*imported],
        "trained": [*trained_by_name],
        "texts": TEXTS,
        "prompts": PROMPTS,
        "learning_rate": LEARNING_RATE,
        "top": TOP,
    }
    (out / "inputs.json").write_text(json.dumps(settings))
    return ours


def make_inputs(length: int, vocab_size: int) -> dict[str, np.ndarray]:
    """Returns 4 random rows, their masks (of different lengths) and token types, and the batches of `run_sgd`.

    A label of -100 marks a position whose token is not predicted.
    """
    rng = np.random.default_rng(0)
    lengths = np.array([length, length // 2, 5, 1])
    mask = np.arange(length) < lengths[:, None]
    # ids below 5 are special tokens
    labels = rng.integers(5, vocab_size, (STEPS, 4, length))
    return {
        "tokens": rng.integers(5, vocab_size, (4, length)),
        "mask": mask.astype(np.int64),
        "types": mask * np.int64(np.arange(length) >= 7),
        "steps/tokens": rng.integers(5, vocab_size, (STEPS, 4, length)),
        "steps/labels": np.where(rng.random(labels.shape) < 0.2, labels, -100),
    }


def run_masked(name: str, workdir: epath.PathLike, out: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Exports a masked-language model; returns its logits for whole and padded rows, and the best ids for [MASK]."""
    export(epath.Path(workdir), epath.Path(out / name), **EXPORT_OPTIONS)
    model = symbert_jax.load(workdir)
    config = dataclasses.replace(model.config.model, dtype="float32")
    tokens, types = (inputs[key].astype(np.int32) for key in ("tokens", "types"))
    mask = inputs["mask"] == 1
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), (8, tokens.shape[1]))
    with jax.set_mesh(one_device()):
        logits = jax.jit(bert.logits, static_argnums=0)(  # both kinds of rows are in one batch, which compiles once
            config,
            model.params,
            np.concatenate([tokens, tokens]),
            positions,
            token_types=np.concatenate([np.zeros_like(types), types]),
            segments=np.concatenate([np.ones_like(mask), mask]).astype(np.int32),
        )
    spelled, encoded = tokenizer.read(epath.Path(workdir)), model.encode(PROMPTS).ids
    masks = [np.flatnonzero(row == spelled.mask_id) for row in encoded]
    mask_logits = model.logits(encoded, np.maximum(pad([row.tolist() for row in masks]), 0))
    best = [
        (-each).argsort()[:TOP].tolist()
        for row, chosen in zip(mask_logits, masks, strict=True)
        for each in row[: len(chosen)]
    ]
    # the spellings of several bytes are the same, so the ids are not found by spelling
    guesses = [guess for by_mask in model.fill_mask(PROMPTS, TOP) for guess in by_mask]
    assert [[token for token, _ in each] for each in guesses] == [[spelled.readable(i) for i in ids] for ids in best]
    return {
        f"{name}/logits/whole": np.asarray(logits[:4]),
        f"{name}/logits/padded": np.asarray(logits[4:])[mask],
        f"{name}/fill": np.array(best),
    }


def run_classifier(
    name: str, workdir: epath.PathLike, out: Path, inputs: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Exports a classifier with the encoder of a workdir and a random head; returns its logits."""
    params, config = symbert_jax.load(workdir)
    with jax.set_mesh(one_device()):
        head = jax.tree.map(np.asarray, classifier.init_head(config.model, NUM_CLASSES, jax.random.key(1)))
        head["classifier"]["kernel"] = 50 * head["classifier"]["kernel"]  # rounding then changes no prediction
        encoder = classifier.pretrained(config.model, params)
        finetuned = {**encoder, "head": head | encoder.get("head", {})}
        logits = jax.jit(classifier.logits, static_argnums=(0, 1))(
            config.model,
            NUM_CLASSES,
            finetuned,
            inputs["tokens"].astype(np.int32),
            token_types=inputs["types"].astype(np.int32),
            mask=inputs["mask"] == 1,
        )
    folder = epath.Path(out / f"{name}.mnli")
    description = saved.SavedModel(score=0.0, task="mnli", model=config.model, trial="none")
    saved.write(folder, description, finetuned, epath.Path(workdir))
    export(folder, epath.Path(out / f"{name}.classifier"), **EXPORT_OPTIONS)
    return {f"{name}/classes": np.asarray(logits)}


def run_sgd(model: ModelConfig, params: Params, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the losses of `STEPS` steps of gradient descent without momentum and dropout."""
    losses = []

    def mean_loss(params: Params, batch: MlmBatch) -> jax.Array:
        total, count = mlm_objective(model, params, batch, None)["loss"]
        return total / count

    step = jax.jit(jax.value_and_grad(mean_loss))
    with jax.set_mesh(one_device()):
        for tokens, labels in zip(inputs["steps/tokens"], inputs["steps/labels"], strict=True):
            positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
            weights = (labels >= 0).astype(np.float32)
            batch = MlmBatch(tokens.astype(np.int32), positions, labels.astype(np.int32), weights)
            value, gradients = step(params, batch)
            params = jax.tree.map(lambda weight, gradient: weight - LEARNING_RATE * gradient, params, gradients)
            losses.append(float(value))
    return np.array(losses)


def pad(rows: list[list[int]]) -> np.ndarray:
    """Pads rows with -1 to the length of the longest row."""
    length = max(map(len, rows))
    return np.array([row + [-1] * (length - len(row)) for row in rows])


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    write(folder, import_models(folder) | {MODERN: make_modern(folder)}, [Path(workdir) for workdir in sys.argv[2:]])
